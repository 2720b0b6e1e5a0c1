"""Few-shot linear evaluation of any weights, without training.

  bit_jax fewshot WEIGHTS --dataset=digits
  bit_jax fewshot BiT-M-R50x1 --dataset=cifar10 --data_dir=$HOME/tfds

WEIGHTS is anything that `weights.load` reads: a work directory, a checkpoint, a
file or the name of a release. Prints one accuracy for each number of shots;
bit_jax/evaluate/fewshot.py describes the method.
"""

import json
import sys
from collections.abc import Sequence

from bit_jax import progress, weights
from bit_jax.errors import exit_status
from bit_jax.evaluate import feature_cache, fewshot, inference
from bit_jax.parallel import sharding
from bit_jax.run import sources
from bit_jax.storage import cache
from bit_jax.tools import command_line
from bit_jax.writers import metric_text


def _shots(text: str) -> tuple[int, ...]:
  shots = tuple(int(part) for part in text.split(","))
  if min(shots) < 1:
    raise ValueError
  return shots


def run(
  path: str,
  dataset: str,
  *,
  data_dir: str = "",
  shots: Sequence[int] = fewshot.SHOTS,
  seeds: int = fewshot.SEEDS,
  crop_px: int = 224,
  keep: bool = True,
  nested_classes: bool = False,
) -> dict[str, float]:
  """Evaluates weights on a data set.

  Args:
    path: The weights: anything that `weights.load` reads.
    dataset: A name as in `config.data.name`. Training examples are drawn from
      its train split; the accuracy is that on its test split.
    data_dir: Folder of the TFDS sets.
    shots: Numbers of examples per class.
    seeds: Subsets drawn for each number of shots.
    crop_px: Side of the network's input, unless the set has a native size.
    keep: Caches the features in the user's cache folder.
    nested_classes: Accepts classes of a folder whose images are all in several
      folders below the class folder.

  Returns:
    {"5shot_accuracy": accuracy, ...}, each from 0 to 1.

  Raises:
    InputError: Weights or data are missing or do not fit.
  """
  loaded = weights.load(path)
  with progress.activity(f"opening {dataset}"):
    fewshot_set = sources.load_fewshot_set(
      dataset, data_dir, "--dataset", nested_classes=nested_classes
    )
  model, variables = inference.network(loaded)
  mesh = sharding.make_mesh()
  return fewshot.evaluate_few_shot(
    inference.make_feature_step(model, mesh),
    variables,
    fewshot_set.train,
    fewshot_set.test,
    fewshot.default_preprocess(fewshot_set.train, crop_px),
    mesh,
    shots=shots,
    seeds=seeds,
    cache=feature_cache.of(loaded, mesh) if keep else None,
  )


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command; returns its exit code."""
  parser = command_line.Parser("bit_jax.tools.fewshot", __doc__)
  add = parser.add_argument
  add("weights", metavar="WEIGHTS", help="weights to evaluate")
  add(
    "--dataset", required=True, help="TFDS name, folder:PATH, glyphs or digits"
  )
  add("--data_dir", default="", help=command_line.DATA_DIR)
  add(
    "--shots",
    type=_shots,
    default=fewshot.SHOTS,
    metavar="K,K",
    help="examples per class, separated by commas (default: "
    f"{','.join(map(str, fewshot.SHOTS))})",
  )
  add(
    "--seeds",
    type=command_line.at_least(1),
    default=fewshot.SEEDS,
    help="subsets drawn for each number of shots",
  )
  add(
    "--crop_px",
    type=command_line.at_least(32),
    default=224,
    help="side of the network's input",
  )
  add(
    "--nested_classes",
    action="store_true",
    help="accept class folders with images in several folders only",
  )
  add("--no_cache", action="store_true", help="do not cache features")
  add("--json", action="store_true", help="print one JSON object")
  args = parser.parse_args(argv)
  cache.enable_compilation_cache()

  def report() -> None:
    result = run(
      args.weights,
      args.dataset,
      data_dir=args.data_dir,
      shots=args.shots,
      seeds=args.seeds,
      crop_px=args.crop_px,
      keep=not args.no_cache,
      nested_classes=args.nested_classes,
    )
    if args.json:
      print(json.dumps(result))
    for key, value in () if args.json else result.items():
      print(f"{key} {metric_text.number(key, value)}")

  return exit_status(report)


if __name__ == "__main__":
  sys.exit(main())
