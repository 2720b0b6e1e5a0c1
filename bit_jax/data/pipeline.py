"""From example indices to global batches on the devices, with Grain.

The training stream is the endless concatenation of one permutation per epoch;
batch t is its positions [t * B, (t + 1) * B), so that resuming needs only the
step, and sets smaller than a batch need no special care. Host h of n makes the
rows [h * B / n, (h + 1) * B / n). Every random choice of an example is keyed by
(seed, epoch, example index): no host, device or thread count changes it.
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
from bit_jax.errors import InputError
from bit_jax.parallel import sharding

Batch = dict[str, Any]

# Enough rows that handing them to a thread costs nothing beside making them.
_ROWS_AT_ONCE = 4


@functools.lru_cache(maxsize=64)
def _epoch_key(seed: int, epoch: int) -> int:
  return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])


def example_index(position: int, num_examples: int, seed: int) -> int:
  """Returns which example stands at a position of the training stream.

  Each epoch (num_examples positions) is a permutation that is computed a place
  at a time: nothing has the size of the data set.
  """
  epoch, offset = divmod(position, num_examples)
  if num_examples == 1:
    return 0
  return grain.experimental.index_shuffle(
    offset, max_index=num_examples - 1, seed=_epoch_key(seed, epoch), rounds=4
  )


def _read(source: Source, index: int) -> tuple[np.ndarray | Encoded, Any]:
  """Returns the image, maybe still encoded, and the label of an example."""
  example = source.examples[index]
  image = example["image"]
  if not isinstance(image, np.ndarray):
    name = example.get("name", f"{source.name} example {index}")
    image = Encoded(image, name)
  label = example["label"]
  if source.multi_label:
    hot = np.zeros(source.num_classes, np.uint8)
    hot[np.asarray(label, int)] = 1
    return image, hot
  if not 0 <= label < source.num_classes:
    raise InputError(
      f"{source.name} example {index}: label {label} is outside the "
      f"{source.num_classes} classes"
    )
  return image, np.int32(label)


def _num_cores() -> int:
  if hasattr(os, "sched_getaffinity"):  # Not on macOS.
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
  """Gives an iterator of batches start..stop-1, prefetched in threads.

  As a context, so that the threads end with the loop that reads them.

  Args:
    make_row: from a row of the stream of global batches, and where its image
      goes, uint8[crop_px, crop_px, 3], to its other arrays.
    crop_px: side of the images.
    batch_size: global rows of a batch.
    start: the first batch.
    stop: one past the last batch.
    mesh: the batch is split over it.
    num_threads: that call make_row; 0: one for each core.
  """
  rows, host = batch_size // jax.process_count(), jax.process_index()

  def make_batch(t):
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
  # Two at a time: no thread waits for the last rows of a batch.
  ds = ds.to_iter_dataset(grain.ReadOptions(2, 2))
  ds = ds.map(functools.partial(sharding.to_global, mesh=mesh))
  # The copy to the device happens in this thread, not in the loop.
  ds = grain.experimental.ThreadPrefetchIterDataset(ds, prefetch_buffer_size=2)
  # Grain's own threads make whole elements. Making rows of images elements, and
  # batches of them, would copy every image once more.
  pool = ThreadPoolExecutor(num_threads or _num_cores(), "rows")
  with pool, contextlib.closing(iter(ds)) as iterator:
    try:
      yield iterator
    finally:
      # Nothing waits for the rest of the batches that are being made.
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
  """Gives the batches of steps start_step .. total_steps - 1.

  Use it as `with train_batches(...) as batches: for batch in batches`.

  Args:
    source: the training examples.
    preprocess: applied to each image with a generator of its own.
    batch_size: global; a multiple of the number of devices.
    seed: of order and augmentation.
    start_step: finished updates.
    total_steps: of the whole run.
    mesh: the batch is split over it.
    num_threads: that decode; 0: one for each core.

  Returns:
    A context with an iterator of dicts of global arrays: `images`
    uint8[B, crop_px, crop_px, 3]; `labels` int32[B], or uint8[B, classes] with
    ones for multi-label sets; `index` int32[B], the example's place in source.

  Raises:
    InputError: an image cannot be decoded or a label is out of range; the
      message names the file or the example.
  """

  def make_row(position, out):
    index = example_index(position, len(source), seed)
    epoch = position // len(source)
    key = np.array([seed, (epoch << 40) | index], np.uint64)
    rng = np.random.Generator(np.random.Philox(key=key))
    image, label = _read(source, index)
    preprocess(image, rng, out)
    return {"labels": label, "index": np.int32(index)}

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
  """Gives every example of a source once, in order.

  Args:
    source: the examples.
    preprocess: a deterministic one.
    batch_size: global; a multiple of the number of devices.
    mesh: the batch is split over it.
    num_threads: that decode; 0: one for each core.

  Returns:
    A context with an iterator of dicts like those of `train_batches` plus
    `mask` float32[B]: 1 for examples, 0 for the rows that fill the last batch
    up. Every host gets equally many.
  """
  num_examples = len(source)

  def make_row(position, out):
    real = position < num_examples
    # Padding repeats the last example: a valid image, masked out.
    index = min(position, num_examples - 1)
    image, label = _read(source, index)
    preprocess(image, out=out)
    return {
      "labels": label,
      "index": np.int32(index),
      "mask": np.float32(real),
    }

  return _batches(
    make_row,
    crop_px=preprocess.crop_px,
    batch_size=batch_size,
    start=0,
    stop=-(-num_examples // batch_size),
    mesh=mesh,
    num_threads=num_threads,
  )
