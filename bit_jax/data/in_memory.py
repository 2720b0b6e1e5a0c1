"""Sets small enough are held in memory, each image decoded when first read.

Nothing is read ahead, so nothing waits at the start; a second epoch or
evaluation neither reads nor decodes. The pixels are the same as without.
"""

import dataclasses
import threading
from typing import Any

import numpy as np

from bit_jax.data.decode import decode
from bit_jax.data.source import Examples, Source

# Of an array, its dict, its label and its place in a list.
_BYTES_BESIDE_PIXELS = 512


class Memory:
  """How many bytes the examples that are held may take, and do take.

  Attributes:
    budget_bytes: for all sources that share it.
    promised_bytes: what `hold` expects its sources to take once all is read.
    used_bytes: what is held, never more than the budget.
  """

  def __init__(self, budget_mb: int):
    """Starts with nothing held.

    Args:
      budget_mb: in MiB of 2**20 bytes; 0 to hold nothing.
    """
    self.budget_bytes = budget_mb << 20
    self.promised_bytes = 0
    self.used_bytes = 0
    self._lock = threading.Lock()

  def promise(self, num_bytes: int) -> bool:
    """Sets bytes aside if there are as many left to promise."""
    fits = self.promised_bytes + num_bytes <= self.budget_bytes
    self.promised_bytes += num_bytes if fits else 0
    return fits

  def take(self, num_bytes: int) -> bool:
    """Counts bytes as used if there is room for them; from any thread."""
    with self._lock:
      fits = self.used_bytes + num_bytes <= self.budget_bytes
      self.used_bytes += num_bytes if fits else 0
    return fits


def hold(source: Source, memory: Memory) -> Source:
  """Returns a source that keeps its decoded examples, if all of them fit.

  Whether they fit is told by the size of the typical image; where images are
  larger than it says, what no longer fits in the end is read each time.

  Args:
    source: a set that is read more than once.
    memory: what it may use.

  Returns:
    A source of the same examples; `source` itself if it does not fit.
  """
  height, width = source.image_px
  num_bytes = len(source) * (height * width * 3 + _BYTES_BESIDE_PIXELS)
  if not memory.promise(num_bytes):
    return source
  examples = _Held(source.examples, source.name, memory)
  return dataclasses.replace(source, examples=examples)


class _Held:
  """Examples with decoded images, uint8[H, W, 3], that cannot be written to.

  Threads that read an example for the first time at once all decode it, and one
  of the results is held.
  """

  def __init__(self, examples: Examples, name: str, memory: Memory):
    self._examples, self._name, self._memory = examples, name, memory
    self._held: list[dict[str, Any] | None] = [None] * len(examples)
    self._lock = threading.Lock()

  def __len__(self) -> int:
    return len(self._held)

  def __getitem__(self, index: int) -> dict[str, Any]:
    if held := self._held[index]:
      return dict(held)
    example = self._examples[index]
    image = example["image"]
    if not isinstance(image, np.ndarray):
      name = example.get("name", f"{self._name} example {index}")
      image = decode(image, name)
    # Of a view: the array itself may be the source's own.
    image = image.view()
    image.flags.writeable = False
    example = {**example, "image": image}
    with self._lock:
      is_new = self._held[index] is None
      if is_new and self._memory.take(image.nbytes + _BYTES_BESIDE_PIXELS):
        self._held[index] = example
    return dict(example)
