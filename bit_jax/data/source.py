"""The interface of a source of examples, and the properties recipes use."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from bit_jax.data.fields import ClassLabel, ClassLabels, Field
from bit_jax.errors import InputError
from bit_jax.storage.files import normal


class Examples(Protocol):
  """Random access to examples.

  `examples[i]` is a dict with `image`, encoded bytes or a uint8[H, W, 3] RGB
  array, and `label`, an int or (multi-label sets) a sequence of ints. Reading
  an index again returns the same example. Several threads may read at once.
  """

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> dict[str, Any]: ...


@dataclasses.dataclass(frozen=True)
class Source:
  """One split of an image set.

  Attributes:
    name: Name of the split in messages, e.g. `cifar10 train[:98%]`.
    examples: The examples, by index.
    class_names: One name per class; a label is an index into it.
    image_px: (height, width) of a typical image in pixels: the exact size if
      all images share it, else that of the image of median area.
    fingerprint: A short hex string that changes with the examples (in a folder:
      with their names and sizes in bytes), their order or their labels.
    read_labels: Returns all labels as int64[len(examples)], in order; raises
      InputError for a multi-label set.
    native_px: Side in pixels of images that are used as they are, without any
      crop (glyphs, digits); 0 if a recipe chooses the resolution.
    flip: False if mirroring an image changes its class.
    multi_label: True if a label is a sequence of class ids.
    files: Returns the paths of the image files, in order; None for examples
      that are no files of their own.
    labelled: False if the labels are missing or of no interest; batches then
      hold images alone.
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
  labelled: bool = True
  files: Callable[[], list[str]] | None = None

  def __post_init__(self):
    # Class names come from folders and files of all systems, and are compared
    # with those of weights.
    names = tuple(map(normal, self.class_names))
    if len(set(names)) < len(set(self.class_names)):
      twice = next(name for name in names if names.count(name) > 1)
      raise InputError(
        f"{self.name}: two classes are called {twice!r}, with its accents "
        f"stored in two ways (Unicode NFC and NFD); give them one name"
      )
    object.__setattr__(self, "class_names", names)

  def __len__(self) -> int:
    return len(self.examples)

  @property
  def num_classes(self) -> int:
    """Number of classes."""
    return len(self.class_names)

  @property
  def fields(self) -> dict[str, Field]:
    """The fields of an example, beside its image, that batches hold."""
    if not self.labelled:
      return {}
    kind = ClassLabels if self.multi_label else ClassLabel
    return {"label": kind(self.num_classes)}


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
  """Properties of a training set that a recipe's rules depend on.

  Attributes:
    num_examples: Number of examples after slicing and few-shot selection.
    num_classes: Number of classes.
    image_px: (height, width) of a typical image in pixels.
    native_px: Side in pixels of images that are used as they are, without any
      crop; 0 if a recipe chooses the resolution.
    flip: False if mirroring an image changes its class.
    fingerprint: A short hex string that changes with the examples, their order
      or their labels.
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
