"""Evaluates weights on robustness benchmarks, or on any split of a data set.

  bit_jax evaluate WEIGHTS --benchmark=real,imagenet_v2
  bit_jax evaluate WEIGHTS --dataset=cifar10 --split=test

WEIGHTS is anything that `weights.load` reads: a work directory, a checkpoint, a
file or the name of a release. Benchmarks are real, imagenet_v2[/CONFIG],
objectnet:PATH and folder:PATH; bit_jax/evaluate/robustness.py describes them.
Classes are matched by name. Prints one line for each: top-1 and top-5 accuracy,
the number of images counted, and the number left out. Files of a folder that
the weights were trained on are left out too; runs keep a list of them.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from bit_jax import progress, weights
from bit_jax.data import class_names, datasets, preprocess
from bit_jax.data.preprocess import Preprocess
from bit_jax.data.source import Source
from bit_jax.errors import InputError, exit_status, some
from bit_jax.evaluate import inference, metrics, robustness
from bit_jax.evaluate.robustness import Benchmark
from bit_jax.objectives.classify import Classify
from bit_jax.parallel import sharding
from bit_jax.run import trained_on
from bit_jax.storage import cache
from bit_jax.tools import command_line
from bit_jax.writers import metric_text

# The input size for weights without preprocessing metadata.
_CROP_PX = 224


def choose_preprocess(
  stored: Mapping[str, Any], kind: str = "", crop_px: int = 0
) -> Preprocess:
  """Returns the preprocessing of the images.

  Args:
    stored: The preprocessing stored with the weights; {} means `square`.
    kind: `square` (resized to crop_px x crop_px, as in the evaluation of
      fine-tuning), `central` (short side resized to 8/7 of crop_px, then a
      central square), or '' for the stored one.
    crop_px: Side of the network's input; 0 for the stored one, or else 224.
  """
  px = crop_px or stored.get("crop_px", _CROP_PX)
  if kind == "central":
    return preprocess.central(round(px * 8 / 7), px)
  if kind == "square" or not stored:
    return preprocess.hyperrule_test(px)
  kept = Preprocess(**stored)
  resize_px = round(kept.resize_px * px / kept.crop_px)
  return dataclasses.replace(kept, crop_px=px, resize_px=resize_px)


def run(
  loaded: weights.Weights,
  benchmark: Benchmark,
  prepare: Preprocess,
  *,
  batch_size: int = 0,
  per_class: bool = False,
) -> dict[str, Any]:
  """Evaluates weights on a benchmark.

  Args:
    loaded: Weights from `weights.load`.
    benchmark: The images, labelled with the outputs of these weights.
    prepare: The preprocessing of the images.
    batch_size: Global batch size; 0 for `inference.default_batch_size`.
    per_class: Adds the accuracy on each class of the set. An image with several
      labels counts for each of them.

  Returns:
    A dict with `accuracy` and, of more than five classes, `top5_accuracy` (0
    to 1), `examples` (the number
    of images counted), the benchmark's `left_out`, `unmatched` and
    `assumed_order`, `preprocess` and, if asked for, `per_class`
    {name: {"accuracy", "examples"}}.

  Raises:
    InputError: An image cannot be decoded, or the devices cannot share a batch.
  """
  model, variables = inference.network(loaded)
  mesh = sharding.make_mesh()
  if batch_size:
    sharding.check_batch_size(batch_size, mesh, "--batch_size")
  # A benchmark's labels give no meaningful loss, so any loss will do.
  objective = Classify(model)
  sums, rows = metrics.score_split(
    objective,
    variables.pop("params"),
    variables,
    benchmark,
    prepare,
    batch_size=batch_size,
    mesh=mesh,
  )
  values, right = objective.summarize(sums, rows), rows["right"]
  result: dict[str, Any] = {k: v for k, v in values.items() if k != "loss"}
  for key in ("left_out", "trained_on", "unmatched", "assumed_order"):
    result[key] = getattr(benchmark, key)
  result["preprocess"] = dataclasses.asdict(prepare)
  if per_class:
    result["per_class"] = {
      name: {"accuracy": float(right[rows].mean()), "examples": len(rows)}
      for name, rows in benchmark.members.items()
    }
  return result


def describe(name: str, result: Mapping[str, Any]) -> str:
  """Returns a result as text: one line, and one per class with `per_class`."""
  shares = (
    f"{key} {metric_text.number(key, value)}"
    for key, value in result.items()
    if metric_text.is_share(key)
  )
  line = (
    f"{name}: {', '.join(shares)}, {result['examples']} images counted, "
    f"{result['left_out']} left out"
  )
  if result["trained_on"]:
    line += f", {result['trained_on']} left out as trained on"
  if result["unmatched"]:
    line += (
      f"; {len(result['unmatched'])} classes have no class of the classifier: "
      f"{some(result['unmatched'])}"
    )
  if result["assumed_order"]:
    line += (
      "; the classifier has no class names, its outputs were taken in the "
      "order of the set"
    )
  classes = result.get("per_class", {}).items()
  lines = [
    f"  {key}: accuracy {metric_text.percent(value['accuracy'])}, "
    f"{value['examples']} images"
    for key, value in classes
  ]
  return "\n".join([line, *lines])


def _benchmarks(text: str) -> list[str]:
  """Returns the names in a list; a comma may be part of a folder's path."""
  names: list[str] = []
  for part in text.split(","):
    kind = part.strip().partition(":")[0].partition("/")[0]
    if (
      names
      and ":" in names[-1]
      and part.strip()
      and (kind not in robustness.KINDS)
    ):
      names[-1] += f",{part}"
    else:
      names.append(part)
  return [name.strip() for name in names if name.strip()]


def _evaluate_all(args: argparse.Namespace) -> None:
  loaded = weights.load(args.weights)
  names = loaded.class_names
  if args.class_names:
    names = class_names.read(args.class_names, "--class_names")
  # Without class names the outputs are called by their numbers.
  names = names or tuple(map(str, range(loaded.num_classes)))
  if not loaded.num_classes or len(names) != loaded.num_classes:
    raise InputError(
      f"weights {args.weights} have {loaded.num_classes} outputs, but "
      f"{len(names)} class names"
    )
  where: dict[str, Any] = {
    "data_dir": args.data_dir,
    "cache_dir": str(cache.folder("folders")),
  }
  known = trained_on.of(args.weights, loaded)

  def seen_in_training(source: Source) -> Collection[int]:
    found = known.find(source)
    if not len(found):
      return ()
    # Who names the split of a set knows what it is.
    kept = args.include_trained or (args.dataset and args.split)
    progress.say(
      f"note: the weights were trained on {len(found)} of the {len(source)} "
      f"images of {source.name}, which are "
      + ("counted" if kept else "left out; --include_trained counts them")
    )
    return () if kept else found

  opened: dict[str, Benchmark] = {}
  # An evaluation may take long, so all benchmarks are opened before the first.
  for name in _benchmarks(args.benchmark):
    with progress.activity(f"opening {name}"):
      opened[name] = robustness.load(
        name,
        names,
        split=args.split,
        label_map=args.label_map,
        border_px=args.border_px,
        without=seen_in_training,
        **where,
      )
  if args.dataset:
    # Classes that are none do not match those of the weights.
    with progress.activity(f"opening {args.dataset}"):
      source = datasets.load(
        args.dataset, args.split or "test", **where, nested_classes=True
      )
      opened[source.name] = robustness.relabel(
        source,
        names,
        label_map=args.label_map,
        border_px=max(args.border_px, 0),
        without=seen_in_training,
      )
  prepare = choose_preprocess(loaded.preprocess, args.preprocess, args.crop_px)
  if not (loaded.preprocess or (args.preprocess and args.crop_px)):
    progress.say(
      "note: the weights do not say how images are prepared; used: "
      f"{prepare}; choose with --preprocess and --crop_px"
    )
  results = {}
  for name, benchmark in opened.items():
    results[name] = run(
      loaded,
      benchmark,
      prepare,
      batch_size=args.batch_size,
      per_class=args.per_class,
    )
    if not args.json:
      print(describe(name, results[name]), flush=True)
  if args.json:
    print(json.dumps(results))


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command; returns its exit code."""
  parser = command_line.Parser("bit_jax.tools.evaluate", __doc__)
  add = parser.add_argument
  add("weights", metavar="WEIGHTS", help="weights to evaluate")
  add("--benchmark", default="", help="benchmarks, separated by commas")
  add("--dataset", default="", help="TFDS name, folder:PATH, glyphs or digits")
  add(
    "--split",
    default="",
    help="split, e.g. validation[:1000] (default with --dataset: test)",
  )
  add("--data_dir", default="", help=command_line.DATA_DIR)
  add(
    "--label_map",
    default="",
    help='JSON file {"class": "name; name"}, or ObjectNet\'s folder `mappings`',
  )
  add(
    "--class_names",
    default="",
    help="file with the names of the outputs, one per line (default: the names "
    "stored with the weights)",
  )
  add(
    "--border_px",
    type=int,
    default=-1,
    help="border cut off each side (default: 1 for ObjectNet, else 0)",
  )
  add(
    "--crop_px",
    type=int,
    default=0,
    help="side of the network's input (default: that stored with the weights)",
  )
  add(
    "--preprocess",
    choices=("square", "central"),
    default="",
    help="kind of preprocessing (default: that stored with the weights)",
  )
  add(
    "--batch_size",
    type=int,
    default=0,
    help="images at a time; 0: as fits (default: 0)",
  )
  add(
    "--include_trained",
    action="store_true",
    help="count images that the weights were trained on",
  )
  add("--json", action="store_true", help="print one JSON object")
  add("--per_class", action="store_true", help="add the accuracy of each class")
  args = parser.parse_args(argv)
  if bool(args.benchmark.strip(", ")) == bool(args.dataset):
    parser.error("expected one of --benchmark and --dataset")
  if args.crop_px < 0 or args.batch_size < 0 or args.border_px < -1:
    parser.error("--crop_px, --batch_size and --border_px: expected 1 or more")
  cache.enable_compilation_cache()
  return exit_status(lambda: _evaluate_all(args))


if __name__ == "__main__":
  sys.exit(main())
