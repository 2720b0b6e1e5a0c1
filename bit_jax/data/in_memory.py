"""Caches decoded images of small data sets in memory.

An image is decoded and cached when it is first read, so that a run starts
without a pass over the data. A second epoch or evaluation then neither reads
nor decodes. The pixels are the same as without the cache.
"""

import dataclasses
import threading
from typing import Any

import numpy as np

from bit_jax.data.decode import decode
from bit_jax.data.source import Examples, Source

# An estimate for the objects around the pixels of an example: the array, its
# dict, its label and its place in a list.
_BYTES_BESIDE_PIXELS = 512


class Memory:
  """The memory budget that several cached sources share.

  Attributes:
    budget_bytes: Upper limit for all sources together.
    promised_bytes: Estimated size of the sources that `cache_in_memory`
      accepted, once all their examples have been read.
    used_bytes: Size of the examples cached so far; never above the budget.
  """

  def __init__(self, budget_mb: int):
    """Starts with nothing cached.

    Args:
      budget_mb: Budget in MiB (2**20 bytes); 0 disables caching.
    """
    self.budget_bytes = budget_mb << 20
    self.promised_bytes = 0
    self.used_bytes = 0
    self._lock = threading.Lock()

  def promise(self, num_bytes: int) -> bool:
    """Reserves bytes for a source; returns False if too few are left."""
    fits = self.promised_bytes + num_bytes <= self.budget_bytes
    self.promised_bytes += num_bytes if fits else 0
    return fits

  def take(self, num_bytes: int) -> bool:
    """Counts bytes as used; returns False if too few are left. Thread-safe."""
    with self._lock:
      fits = self.used_bytes + num_bytes <= self.budget_bytes
      self.used_bytes += num_bytes if fits else 0
    return fits


def cache_in_memory(source: Source, memory: Memory) -> Source:
  """Returns a source that caches its decoded examples, if all of them fit.

  Whether they fit is estimated from the size of a typical image. If images turn
  out larger, those that exceed the budget are decoded on every read.

  Args:
    source: A source that is read more than once.
    memory: The budget, which other sources may share.

  Returns:
    A source of the same examples; `source` itself if they do not fit.
  """
  height, width = source.image_px
  num_bytes = len(source) * (height * width * 3 + _BYTES_BESIDE_PIXELS)
  if not memory.promise(num_bytes):
    return source
  examples = _CachedExamples(source.examples, source.name, memory)
  return dataclasses.replace(source, examples=examples)


class _CachedExamples:
  """Examples with decoded images: read-only arrays uint8[H, W, 3].

  Threads that read an example for the first time at once all decode it, and one
  of the results is cached.
  """

  def __init__(self, examples: Examples, name: str, memory: Memory):
    self._examples, self._name, self._memory = examples, name, memory
    self._cached: list[dict[str, Any] | None] = [None] * len(examples)
    self._lock = threading.Lock()

  def __len__(self) -> int:
    return len(self._cached)

  def __getitem__(self, index: int) -> dict[str, Any]:
    # Reading a list's element needs no lock; only the decision to fill it does.
    if cached := self._cached[index]:
      return dict(cached)
    example = self._examples[index]
    image = example["image"]
    if not isinstance(image, np.ndarray):
      name = example.get("name", f"{self._name} example {index}")
      image = decode(image, name)
    # The flag is set on a view, because the array may be the source's own.
    image = image.view()
    image.flags.writeable = False
    example = {**example, "image": image}
    with self._lock:
      is_new = self._cached[index] is None
      if is_new and self._memory.take(image.nbytes + _BYTES_BESIDE_PIXELS):
        self._cached[index] = example
    return dict(example)
