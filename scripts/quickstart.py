"""Pre-trains a small network, transfers it and fine-tunes it, on a CPU.

This shows BiT's method in minutes. A small network learns 200 letters of many
scripts (upstream). Its weights are fine-tuned on handwritten digits with 1, 5
and 10 examples per class (downstream) with a schedule of the HyperRule's shape,
and so is the same network from random weights. All runs happen in this process,
so that runs of one kind share a compiled step.

  scripts/quickstart.sh [--workdir=workdir/quickstart] [--seeds=3]
      [--dtype=float32]

Writes WORKDIR/results.json (accuracies) and WORKDIR/report.html. After an
interruption the same command continues.
"""

import json
import pathlib
import statistics
import sys
import time

from bit_jax import progress, train
from bit_jax.data.sets import digits, glyphs
from bit_jax.errors import exit_status
from bit_jax.preflight import parts
from bit_jax.report import comparison, study
from bit_jax.storage import cache, user_paths
from bit_jax.tools import command_line
from bit_jax.writers import metrics_file
from configs import downstream, upstream

MODEL = "R14x0.25"
SHOTS = (1, 5, 10)
KINDS = ("pretrained", "scratch")


def upstream_config(dtype):
  """Returns the recipe `small` on glyphs, shortened to 1000 small batches."""
  config = upstream.get_config(f"preset=small,dataset=glyphs,model={MODEL}")
  config.total_steps = 1000
  config.input.batch_size = 64
  # This is ten times the paper's learning rate, as 1000 steps are few. It was
  # chosen on letters and on the training half of the digits only.
  config.optim.lr = 0.3
  config.model.dtype = dtype
  return config


def downstream_config(shots, seed, checkpoint, dtype):
  """Returns the recipe `quick` on digits."""
  config = downstream.get_config(
    f"preset=quick,dataset=digits,model={MODEL},examples_per_class={shots}"
  )
  config.seed = seed
  config.init.checkpoint = checkpoint
  config.log_every_steps = 10
  config.model.dtype = dtype
  return config


def quiet_run(config, workdir):
  """Runs a config; shows little of it. Returns its final metrics."""
  with progress.briefly(workdir.name):
    return train.train_and_evaluate(config, workdir, choose_parts=parts.choose)


def print_table(results):
  """Prints the accuracies of results.json as a table."""
  print("\naccuracy on the digits' test half in %: median (range)")
  print(f"{'per class':>9}  {'pre-trained':<22}{'from scratch':<22}difference")
  for shots, row in results.items():
    pretrained, scratch = (row[kind] for kind in KINDS)
    gain = statistics.median(pretrained) - statistics.median(scratch)
    print(
      f"{shots:>9}  {study.median_and_range(pretrained):<22}"
      f"{study.median_and_range(scratch):<22}{100 * gain:+.1f} points"
    )


def loss_curve(workdir):
  """Returns (steps, values) of the training loss from a work directory."""
  curves = metrics_file.read_curves(workdir / metrics_file.METRICS_FILE)
  return curves["train/loss"]


def samples(source, indices):
  """Returns examples as (image, class name)."""
  examples = [source.examples[i] for i in indices]
  return [(e["image"], source.class_names[e["label"]]) for e in examples]


def write_report(workdir, run_dir, results):
  """Writes the page with table, curves and sample images."""
  fine_tuning = [
    (
      f"Fine-tuning loss, {shots} per class",
      [(kind, *loss_curve(run_dir(shots, 0, kind))) for kind in KINDS],
    )
    for shots in SHOTS
  ]
  comparison.write(
    workdir / "report.html",
    title="bit_jax quickstart",
    table=results,
    curves=[
      (
        "Pre-training loss on letters",
        [("loss", *loss_curve(workdir / "upstream"))],
      ),
      *fine_tuning,
    ],
    samples=[
      ("Upstream: glyphs", samples(glyphs.load("train"), range(0, 200, 13))),
      ("Downstream: digits", samples(digits.load("train"), range(16))),
    ],
    notes=[
      f"One network, {MODEL}: pre-trained on letters rendered from fonts, then "
      "fine-tuned on handwritten digits, against the same network from random "
      "weights."
    ],
  )


def main():
  """Parses the flags, runs the quickstart and prints its results."""
  parser = command_line.Parser("scripts.quickstart", __doc__)
  parser.add_argument(
    "--workdir",
    type=user_paths.local,
    default=pathlib.Path("workdir/quickstart"),
    help="folder of the runs, results and report",
  )
  parser.add_argument(
    "--seeds",
    type=command_line.at_least(1),
    default=3,
    help="fine-tuning runs of each kind",
  )
  parser.add_argument(
    "--dtype",
    choices=("float32", "bfloat16"),
    default="float32",
    help="dtype of the convolutions",
  )
  args = parser.parse_args()
  started = time.monotonic()
  cache.enable_compilation_cache()
  print_line = progress.say

  def run_dir(shots, seed, kind):
    return args.workdir / "downstream" / f"{shots}_{seed}_{kind}"

  print_line("1. pre-training on letters")
  pretrained_dir = args.workdir / "upstream"
  train.train_and_evaluate(
    upstream_config(args.dtype), pretrained_dir, choose_parts=parts.choose
  )

  print_line("\n2. fine-tuning on digits, and the same from scratch")
  results = {}
  total = len(SHOTS) * args.seeds * len(KINDS)
  with progress.activity("fine-tuning", total, "runs") as doing:
    for shots in SHOTS:
      row = results[str(shots)] = {kind: [] for kind in KINDS}
      for seed in range(args.seeds):
        for kind in KINDS:
          checkpoint = str(pretrained_dir) if kind == "pretrained" else ""
          config = downstream_config(shots, seed, checkpoint, args.dtype)
          result = quiet_run(config, run_dir(shots, seed, kind))
          row[kind].append(result["eval/test/accuracy"])
          doing.add()
        print_line(
          f"{shots:>2} per class, seed {seed}: pre-trained "
          f"{row['pretrained'][-1]:.1%}, from scratch "
          f"{row['scratch'][-1]:.1%} ({doing.text()})"
        )
  (args.workdir / "results.json").write_text(json.dumps(results, indent=2))
  print_table(results)
  secs = time.monotonic() - started
  write_report(args.workdir, run_dir, results)
  print_line(
    f"\n{secs:.0f} s; open {args.workdir / 'report.html'} in a browser"
  )


if __name__ == "__main__":
  sys.exit(exit_status(main))
