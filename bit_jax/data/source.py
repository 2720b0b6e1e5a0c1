"""The type of a source of examples, and what a recipe must know of one."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np


class Examples(Protocol):
  """Random access to examples.

  `examples[i]` is a dict with `image`, encoded bytes or a uint8[H, W, 3] RGB
  array, and `label`, an int or (multi-label sets) a sequence of ints.
  Reading the same index again gives the same example; safe to call from
  several threads at once.
  """

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> dict[str, Any]: ...


@dataclasses.dataclass(frozen=True)
class Source:
  """One split of an image set.

  Attributes:
    name: what the split is, for messages, e.g. `cifar10 train[:98%]`.
    examples: the examples, see `Examples`.
    class_names: one name a class; a label is an index into it.
    image_px: (height, width) in pixels of a typical image: the exact size where
      all images share it, else that of the image of median area.
    fingerprint: a short hex string that changes when the examples (a folder's:
      their names and sizes in bytes), their order or their labels do.
    read_labels: returns all labels as int64[len(examples)], in order; raises
      InputError for a multi-label set.
    native_px: > 0 where images are used at this size as they are, without any
      crop (glyphs, digits); 0 where a recipe chooses the resolution.
    flip: False where mirroring an image changes its class.
    multi_label: True where a label is a sequence of class ids.
  """

  name: str
  examples: Examples
  class_names: tuple[str, ...]
  image_px: tuple[int, int]
  fingerprint: str
  read_labels: Callable[[], np.ndarray]
  native_px: int = 0
  flip: bool = True
  multi_label: bool = False

  def __len__(self) -> int:
    return len(self.examples)

  @property
  def num_classes(self) -> int:
    """Number of classes."""
    return len(self.class_names)


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
  """Properties of a training set that a recipe's rules depend on.

  Attributes:
    num_examples: after slicing and few-shot selection.
    num_classes: of the labels.
    image_px: (height, width) of a typical image.
    native_px: > 0 for sets that are used at this size as they are.
    flip: False where mirroring changes the class.
    fingerprint: of the examples and their order.
  """

  num_examples: int
  num_classes: int
  image_px: tuple[int, int]
  native_px: int = 0
  flip: bool = True
  fingerprint: str = ""

  @classmethod
  def of(cls, source: Source) -> "DatasetInfo":
    """Returns the properties of a source."""
    return cls(
      len(source),
      source.num_classes,
      source.image_px,
      source.native_px,
      source.flip,
      source.fingerprint,
    )
