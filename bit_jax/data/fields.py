"""Fields of an example beside its image, and their arrays in a batch."""

import dataclasses
from typing import Any, Protocol

import numpy as np

from bit_jax.errors import InputError


class Field(Protocol):
  """A field that a batch holds."""

  @property
  def key(self) -> str:
    """Name of its array in a batch."""
    ...

  def to_array(self, value: Any, where: str) -> Any:
    """Returns the value of one example as the row of a batch.

    Args:
      value: As the examples have it.
      where: Names the example in messages.

    Raises:
      InputError: The value is not one that the field can have.
    """
    ...


@dataclasses.dataclass(frozen=True)
class ClassLabel:
  """One class for each example: int32 in [0, num_classes)."""

  num_classes: int
  key: str = "labels"

  def to_array(self, value: Any, where: str) -> np.int32:
    """Returns the class id as np.int32."""
    _check_range(value, self.num_classes, where)
    return np.int32(value)


@dataclasses.dataclass(frozen=True)
class ClassLabels:
  """Several classes for each example: uint8[num_classes] of zeros and ones."""

  num_classes: int
  key: str = "labels"

  def to_array(self, value: Any, where: str) -> np.ndarray:
    """Returns ones at the class ids of a sequence, which may be empty."""
    hot = np.zeros(self.num_classes, np.uint8)
    for label in value:
      _check_range(label, self.num_classes, where)
      hot[label] = 1
    return hot


def _check_range(label: int, num_classes: int, where: str) -> None:
  # TFDS marks a missing label by -1.
  if not 0 <= label < num_classes:
    raise InputError(
      f"{where}: label {label} is outside the {num_classes} classes"
    )
