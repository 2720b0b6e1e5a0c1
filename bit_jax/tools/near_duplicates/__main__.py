r"""Finds near-duplicates: images of one set that also occur in another.

  bit_jax near_duplicates WEIGHTS --data_dir=DIR \
      --query=cifar10 --query_split=test \
      --index=tiny_imagenet --index_split=train --out=page.html

Upstream images that also occur in a downstream test set make a transfer look
better than it is; the BiT paper removed them. For every query example the
command finds the nearest index examples, and it shows the closest pairs side by
side. With the same set and split for both it finds duplicates within a set.

The distance is 1 - cosine of the features before the head, computed on whole
images: 0 to 1, as these features are not negative. It depends only on the two
images and the weights. (With small networks, on recompressed, brightened and
shrunk images, centring or standardizing the features found no more copies of
flowers, and about as many on CIFAR-10 at 32 px.) Which distance means "the
same" differs between networks: look at the page first, then choose
`--threshold`.

`--json=pairs.json` lists the pairs of the page or, with a threshold, all pairs
up to it: [{"query": 5, "index": 17, "distance": 0.01, "identical": false}, ...]
`query` and `index` number the examples of their splits; `folder:` sets add
`query_file` and `index_file`. `identical` is true if no pixel differs. To
evaluate without the duplicates:

  drop = {pair["query"] for pair in json.load(open("pairs.json"))}
  test = datasets.load("cifar10", "test", data_dir=DIR)
  keep = [i for i in range(len(test)) if i not in drop]
  clean = subset.take(test, keep, "cifar10 test, without duplicates")

To train without them, drop the `index` numbers; `--neighbours=10` finds more
copies of one image. Within one set query < index, so dropping `index` keeps one
image of each pair.

Memory: the features of the query, float32 (8 kB per example for R50x1), stay in
host memory and are split over the devices. The index is streamed, whatever its
size, so let the larger set be the index. The features of both are cached in the
user's cache folder, up to 8 GiB in all, so that the same sets are searched
again in seconds; `--no_cache` turns that off.
"""

import argparse
import dataclasses
import functools
import sys
from collections.abc import Sequence

import jax
import numpy as np

from bit_jax import progress, weights
from bit_jax.data import datasets
from bit_jax.data.preprocess import Preprocess
from bit_jax.data.source import Source
from bit_jax.errors import InputError, exit_status
from bit_jax.evaluate import feature_cache, inference, neighbours
from bit_jax.parallel import sharding
from bit_jax.storage import cache, user_paths
from bit_jax.tools import command_line
from bit_jax.tools.near_duplicates import page


def _search(
  loaded: weights.Weights,
  query: Source,
  index: Source,
  preprocess: Preprocess,
  count: int,
  within: bool,
  *,
  keep: bool,
) -> tuple[np.ndarray, np.ndarray]:
  """Searches the nearest index examples of all query examples.

  Args:
    loaded: Weights from `weights.load`.
    query: The examples whose neighbours are searched.
    index: The examples to search in.
    preprocess: Applied to both.
    count: Neighbours of each query example.
    within: The query is the index.
    keep: Caches the features in the user's cache folder.

  Returns:
    (distances float32[Q, k], numbers int32[Q, k]), as `neighbours.search`.
  """
  mesh = sharding.make_mesh()
  model, variables = inference.network(loaded)
  step = inference.make_feature_step(model, mesh)
  prepare = functools.cache(lambda: step.prepare(variables))
  kept = feature_cache.of(loaded, mesh) if keep else None
  # One batch size for both sets compiles one step, and with one step equal
  # pixels give equal features.
  batch_size = inference.default_batch_size(max(len(query), len(index)), mesh)
  shape = batch_size, loaded.params["head"]["kernel"].shape[0]

  def features(source):
    images = dataclasses.replace(source, labelled=False)
    rows = inference.feature_rows(
      *(step, prepare, images, preprocess, mesh),
      batch_size=batch_size,
      cache=kept,
    )
    for block in rows:
      # A last block of another size would compile another function.
      yield neighbours.normalize(np.resize(block["features"], shape))

  held = np.empty((len(query), shape[1]), "f")
  for i, block in enumerate(features(query)):
    rows = held[i * batch_size : (i + 1) * batch_size]
    rows[:] = np.asarray(block)[: len(rows)]
  blocks = neighbours.blocks_of(held) if within else features(index)
  with progress.activity("searching neighbours", len(index), "examples") as it:
    blocks = it.counting(blocks)
    return neighbours.search(
      held, blocks, len(index), count, mesh, within=within
    )


def _check_numbers(args: argparse.Namespace) -> None:
  if args.threshold is not None and not 0 <= args.threshold <= 1:
    raise InputError(f"--threshold={args.threshold}: expected 0 to 1")
  for name, low in (("neighbours", 1), ("max_pairs", 1), ("crop_px", 32)):
    value = getattr(args, name)
    if value is not None and value < low:
      raise InputError(f"--{name}={value}: expected {low} or more")


def _run(args: argparse.Namespace) -> str:
  """Writes the page and the list of pairs; returns a summary line."""
  _check_numbers(args)
  args.out, args.json = map(user_paths.expand, (args.out, args.json))
  page.check_writable(args.out, args.json)
  with progress.activity(f"opening {args.query} and {args.index}"):
    opened = {
      name: datasets.open_dataset(
        name,
        data_dir=args.data_dir,
        cache_dir=str(cache.folder("folders")),
        # No label is read.
        nested_classes=True,
      )
      for name in (args.query, args.index)
    }
    query = opened[args.query].load(args.query_split)
    index = opened[args.index].load(args.index_split)
  within = (
    user_paths.same_dataset(args.query, args.index)
    and query.fingerprint == index.fingerprint
  )
  if within and len(query) < 2:
    raise InputError(f"{query.name}: one example has no neighbours")
  loaded = weights.load(args.weights)
  # With inf or nan in the weights all images could have the same features.
  if not all(np.isfinite(x).all() for x in jax.tree.leaves(loaded.params)):
    raise InputError(f"weights {args.weights}: there is inf or nan in them")
  crop_px = args.crop_px or loaded.preprocess.get("crop_px", 0)
  crop_px = crop_px or max(query.native_px, index.native_px) or 224
  # A central crop would hide differences outside of it.
  whole = Preprocess("none", crop_px)
  distances, numbers = _search(
    *(loaded, query, index, whole, args.neighbours, within),
    keep=not args.no_cache,
  )
  with progress.activity(f"writing {args.out}"):
    return page.write(
      args.out,
      args.json,
      query,
      index,
      distances,
      numbers,
      within=within,
      threshold=args.threshold,
      max_pairs=args.max_pairs,
      note=f"Features: {loaded.variant} of {args.weights}, on whole images at "
      f"{crop_px} x {crop_px} pixels.",
    )


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command; returns its exit status."""
  parser = command_line.Parser("bit_jax.tools.near_duplicates", __doc__)
  add = parser.add_argument
  add("weights", metavar="WEIGHTS", help="anything that weights.load reads")
  add("--query", required=True, metavar="SET", help="set to look for")
  add("--query_split", default="test", metavar="SPLIT", help="its split")
  add("--index", required=True, metavar="SET", help="set to search in")
  add("--index_split", default="train", metavar="SPLIT", help="its split")
  add("--data_dir", default="", metavar="DIR", help=command_line.DATA_DIR)
  add("--out", required=True, metavar="FILE", help="HTML page to write")
  add("--json", default="", metavar="FILE", help="list of pairs to write")
  add("--no_cache", action="store_true", help="do not cache features")
  add(
    "--threshold",
    type=float,
    help="largest distance of a pair, 0 to 1 (default: the closest pairs)",
  )
  add(
    "--neighbours",
    type=int,
    default=1,
    help="neighbours found for each query example",
  )
  add("--max_pairs", type=int, default=200, help="most pairs on the page")
  add(
    "--crop_px",
    type=int,
    help="side of the network's input (default: that of the weights, else of "
    "the set, else 224)",
  )
  args = parser.parse_args(argv)
  cache.enable_compilation_cache()
  return exit_status(lambda: print(_run(args)))


if __name__ == "__main__":
  sys.exit(main())
