"""Batches of training and evaluation images on the devices, with Grain.

The training stream is the endless concatenation of one permutation per epoch.
Batch t is its positions [t * B, (t + 1) * B), across epoch ends: resuming needs
only the step, and sets smaller than a batch need no special case. Host h of n
makes the rows [h * B / n, (h + 1) * B / n) of each batch. Every random choice
for an example is keyed by (seed, epoch, example index), so that the batches do
not depend on the number of hosts, devices or threads.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grain
import jax
import numpy as np
from jax.sharding import Mesh

from bit_jax.data.decode import Encoded
from bit_jax.data.preprocess import Preprocess
from bit_jax.data.source import Source
from bit_jax.parallel import sharding

Batch = dict[str, Any]

# Rows per task: large enough to hide the cost of scheduling a thread.
_ROWS_AT_ONCE = 4


@functools.lru_cache(maxsize=64)
def _epoch_key(seed: int, epoch: int) -> int:
  return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])


def example_index(position: int, num_examples: int, seed: int) -> int:
  """Returns the index of the example at a position of the training stream.

  Each epoch (num_examples positions) is a permutation of all examples. It is
  computed one position at a time, so that memory does not grow with the set.

  Args:
    position: Position in the stream, from 0.
    num_examples: Number of training examples.
    seed: Seeds the permutations.

  Returns:
    An index in [0, num_examples).
  """
  epoch, offset = divmod(position, num_examples)
  if num_examples == 1:
    return 0
  return grain.experimental.index_shuffle(
    offset, max_index=num_examples - 1, seed=_epoch_key(seed, epoch), rounds=4
  )


def _read(
  source: Source, index: int
) -> tuple[np.ndarray | Encoded, dict[str, Any]]:
  """Returns an example's image, possibly still encoded, and its other arrays.

  Raises:
    InputError: A field has a value that it cannot have.
  """
  example, where = source.examples[index], f"{source.name} example {index}"
  image = example["image"]
  if not isinstance(image, np.ndarray):
    image = Encoded(image, example.get("name", where))
  row: dict[str, Any] = {
    field.key: field.to_array(example[name], where)
    for name, field in source.fields.items()
  }
  return image, {**row, "index": np.int32(index)}


def num_cores() -> int:
  """Returns the number of CPU cores that this process may use."""
  # A container may allow fewer cores than the machine has. macOS has no
  # sched_getaffinity.
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


@contextlib.contextmanager
def _batches(
  make_row: Callable[[int, np.ndarray], Batch],
  *,
  crop_px: int,
  batch_size: int,
  start: int,
  stop: int,
  mesh: Mesh,
  num_threads: int,
) -> Iterator[Iterator[Batch]]:
  """Yields an iterator over batches start to stop - 1, prefetched in threads.

  It is a context manager so that the threads end with the loop that reads them.

  Args:
    make_row: Called with a position in the stream of global batches and the
      uint8[crop_px, crop_px, 3] to write its image to; returns the row's other
      arrays by name.
    crop_px: Side of the images in pixels.
    batch_size: Rows of a global batch.
    start: The first batch.
    stop: One past the last batch.
    mesh: The mesh that batches are split over.
    num_threads: Threads that call make_row; 0 means one per core.
  """
  rows, host = batch_size // jax.process_count(), jax.process_index()

  def make_batch(t):
    # Rows are written to their place in the batch: stacking them afterwards
    # would copy every image once more.
    images = np.empty((rows, crop_px, crop_px, 3), np.uint8)
    first = t * batch_size + host * rows

    def make_rows(r):
      some = range(r, min(r + _ROWS_AT_ONCE, rows))
      return [make_row(first + r, images[r]) for r in some]

    parts = pool.map(make_rows, range(0, rows, _ROWS_AT_ONCE))
    columns = [row for part in parts for row in part]
    others = {key: np.stack([c[key] for c in columns]) for key in columns[0]}
    return {"images": images, **others}

  ds = grain.MapDataset.range(start, stop).map(make_batch)
  # Two batches are made at a time, so that no thread of the pool is idle while
  # the last rows of a batch are finished.
  ds = ds.to_iter_dataset(grain.ReadOptions(2, 2))
  ds = ds.map(functools.partial(sharding.to_global, mesh=mesh))
  # The copy to the device happens in the prefetching thread, not in the loop.
  ds = grain.experimental.ThreadPrefetchIterDataset(ds, prefetch_buffer_size=2)
  # Threads of our own make the rows, because Grain's make whole elements. With
  # rows as elements, Grain would copy every image once more to batch them.
  pool = ThreadPoolExecutor(num_threads or num_cores(), "rows")
  with pool, contextlib.closing(iter(ds)) as iterator:
    try:
      yield iterator
    finally:
      # Cancel the batches still in preparation.
      pool.shutdown(wait=False, cancel_futures=True)


def train_batches(
  source: Source,
  preprocess: Preprocess,
  *,
  batch_size: int,
  seed: int,
  start_step: int,
  total_steps: int,
  mesh: Mesh,
  num_threads: int = 0,
) -> contextlib.AbstractContextManager[Iterator[Batch]]:
  """Returns a context manager over the training batches of the next steps.

  These are steps start_step to total_steps - 1. Use it as
  `with train_batches(...) as batches: for batch in batches`.

  Args:
    source: The training examples.
    preprocess: Applied to each image, with a random generator per example.
    batch_size: Rows of a global batch; a multiple of the number of devices.
    seed: Seeds shuffling and augmentation.
    start_step: Number of finished updates.
    total_steps: Number of updates of the whole run.
    mesh: The mesh that batches are split over.
    num_threads: Decoding threads; 0 means one per core.

  Returns:
    A context manager that yields an iterator of dicts of global arrays:
    `images` uint8[B, crop_px, crop_px, 3]; an array [B, ...] for each of
    `source.fields`; `index` int32[B], the index of the example in source.

  Raises:
    InputError: An image cannot be decoded or a field has a wrong value; raised
      by the iterator, with a message that names the file or the example.
  """

  def make_row(position, out):
    index = example_index(position, len(source), seed)
    epoch = position // len(source)
    # The generator is a function of (seed, epoch, index), whichever host or
    # thread makes the row. An index of less than 2**40 leaves the epoch its own
    # bits of the key.
    key = np.array([seed, (epoch << 40) | index], np.uint64)
    rng = np.random.Generator(np.random.Philox(key=key))
    image, row = _read(source, index)
    preprocess(image, rng, out)
    return row

  return _batches(
    make_row,
    crop_px=preprocess.crop_px,
    batch_size=batch_size,
    start=start_step,
    stop=total_steps,
    mesh=mesh,
    num_threads=num_threads,
  )


def eval_batches(
  source: Source,
  preprocess: Preprocess,
  *,
  batch_size: int,
  mesh: Mesh,
  num_threads: int = 0,
) -> contextlib.AbstractContextManager[Iterator[Batch]]:
  """Returns a context manager over batches of all examples, in order.

  Args:
    source: The examples; each is in one batch.
    preprocess: Applied to each image; must not need a random generator.
    batch_size: Rows of a global batch; a multiple of the number of devices.
    mesh: The mesh that batches are split over.
    num_threads: Decoding threads; 0 means one per core.

  Returns:
    A context manager that yields an iterator of dicts like those of
    `train_batches`, with `mask` float32[B]: 1 for examples, 0 for the rows that
    pad the last batch. All hosts get the same number of batches.

  Raises:
    InputError: An image cannot be decoded or a field has a wrong value; raised
      by the iterator, with a message that names the file or the example.
  """
  num_examples = len(source)

  def make_row(position, out):
    real = position < num_examples
    # Padding repeats the last example, so that it is a valid image; the mask
    # leaves it out of the results.
    index = min(position, num_examples - 1)
    image, row = _read(source, index)
    preprocess(image, out=out)
    return {**row, "mask": np.float32(real)}

  return _batches(
    make_row,
    crop_px=preprocess.crop_px,
    batch_size=batch_size,
    start=0,
    stop=-(-num_examples // batch_size),
    mesh=mesh,
    num_threads=num_threads,
  )
