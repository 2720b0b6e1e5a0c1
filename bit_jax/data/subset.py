"""Selects subsets of a source, draws balanced ones, and stores them in files.

A subset file can be shared by many runs. It is JSON: `indices` into the
training examples, and `of`, the fingerprint of these examples.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from etils import epath

from bit_jax.data.source import Examples, Source
from bit_jax.errors import InputError
from bit_jax.storage import files

_KEY = "config.data.subset_file"


@dataclasses.dataclass(frozen=True)
class Subset:
  """The examples of `parent` at `indices`, in that order.

  Attributes:
    parent: The examples that the subset is part of.
    indices: Integers in [0, len(parent)).
  """

  parent: Examples
  indices: Sequence[int] | np.ndarray

  def __len__(self) -> int:
    return len(self.indices)

  def __getitem__(self, index: int) -> dict[str, Any]:
    return self.parent[int(self.indices[index])]


def take(
  source: Source, indices: Sequence[int] | np.ndarray, name: str
) -> Source:
  """Returns the examples of `source` at `indices`, in that order.

  Args:
    source: The source that the subset is part of.
    indices: Integers in [0, len(source)).
    name: Name of the subset in messages.

  Raises:
    IndexError: An index is out of range.
  """
  chosen = np.asarray(indices, np.int64)
  if chosen.size and not 0 <= chosen.min() <= chosen.max() < len(source):
    raise IndexError(f"{name}: an index is outside [0, {len(source)})")
  digest = hashlib.sha256(source.fingerprint.encode() + chosen.tobytes())
  return dataclasses.replace(
    source,
    name=name,
    examples=Subset(source.examples, chosen),
    fingerprint=digest.hexdigest()[:16],
    read_labels=lambda: source.read_labels()[chosen],
    files=source.files and _chosen_files(source.files, chosen),
  )


def _chosen_files(
  files: Callable[[], list[str]], chosen: np.ndarray
) -> Callable[[], list[str]]:
  def read() -> list[str]:
    paths = files()
    return [paths[i] for i in chosen]

  return read


def few_shot_indices(
  labels: np.ndarray,
  examples_per_class: int,
  seed: int,
  num_classes: int,
  class_names: Sequence[str] = (),
) -> np.ndarray:
  """Draws a balanced subset, which is a function of the arguments alone.

  With one seed, a smaller subset is part of every larger one.

  Args:
    labels: int[N], the label of each example.
    examples_per_class: Examples to draw of each class.
    seed: Seeds the draw.
    num_classes: Number of classes; labels are in [0, num_classes).
    class_names: Names of the classes in messages; numbers if empty.

  Returns:
    int64[examples_per_class * num_classes], ascending indices into `labels`.

  Raises:
    InputError: A class has fewer examples, or examples_per_class is not
      positive.
  """
  if examples_per_class < 1:
    raise InputError(
      f"examples_per_class={examples_per_class}: expected 1 or more"
    )
  chosen = []
  for label in range(num_classes):
    members = np.flatnonzero(labels == label)
    if len(members) < examples_per_class:
      name = class_names[label] if class_names else label
      raise InputError(
        f"class {name!r} has {len(members)} examples, fewer than the "
        f"{examples_per_class} examples_per_class asks for"
      )
    # A generator per class and the start of one permutation: the draw of a
    # class depends neither on the other classes nor on examples_per_class.
    rng = np.random.default_rng([seed, label])
    chosen.append(rng.permutation(members)[:examples_per_class])
  return np.sort(np.concatenate(chosen))


def read(path: epath.PathLike, train: Source) -> np.ndarray:
  """Reads a subset file.

  Args:
    path: The subset file.
    train: The training examples that the indices must belong to.

  Returns:
    int64[N], indices into `train`.

  Raises:
    InputError: The file cannot be read, belongs to other examples or has an
      index out of range.
  """
  text = files.read_text(path, f"{_KEY}={path}")
  try:
    stored = json.loads(text)
    of, indices = stored["of"], np.asarray(stored["indices"])
  except (ValueError, LookupError, TypeError) as e:
    raise InputError(f"{_KEY}={path} cannot be read: {e!r}") from e
  if of != train.fingerprint:
    raise InputError(
      f"{_KEY}={path} was drawn from other examples than those of {train.name} "
      f"(fingerprint {of}, not {train.fingerprint})"
    )
  if indices.ndim != 1 or not indices.size or indices.dtype.kind != "i":
    raise InputError(f"{_KEY}={path}: expected a list of integers as indices")
  if not 0 <= indices.min() <= indices.max() < len(train):
    raise InputError(
      f"{_KEY}={path}: an index is outside the {len(train)} examples"
    )
  return indices.astype(np.int64)


def write(
  path: epath.PathLike, train: Source, indices: Sequence[int] | np.ndarray
) -> None:
  """Writes a subset file atomically.

  Args:
    path: The file to write; its folder is created if missing.
    train: The training examples.
    indices: Indices into `train`.

  Raises:
    InputError: The file cannot be written.
  """
  path = epath.Path(path)
  stored = {"of": train.fingerprint, "indices": [int(i) for i in indices]}
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, json.dumps(stored) + "\n")
  except OSError as e:
    raise InputError(f"{_KEY}={path} cannot be written: {e}") from e


def balanced(train: Source, examples_per_class: int, seed: int) -> np.ndarray:
  """Draws equally many examples of each class with `few_shot_indices`.

  Args:
    train: The training examples.
    examples_per_class: Examples to draw of each class.
    seed: Seeds the draw.

  Returns:
    int64[examples_per_class * num_classes], ascending indices into `train`.

  Raises:
    InputError: A class has fewer examples, or the set is a multi-label one.
  """
  return few_shot_indices(
    train.read_labels(),
    examples_per_class,
    seed,
    train.num_classes,
    train.class_names,
  )


def check_balanced(
  path: epath.PathLike,
  train: Source,
  indices: np.ndarray,
  examples_per_class: int,
) -> None:
  """Checks that a stored subset has k different examples of each class.

  Args:
    path: The subset file, for the message.
    train: The training examples.
    indices: int64[N], the subset's indices into `train`.
    examples_per_class: The number k of examples to expect of each class.

  Raises:
    InputError: The subset is not balanced like this.
  """
  # train.read_labels() would read the whole set.
  labels = [train.examples[int(i)]["label"] for i in np.unique(indices)]
  counts = np.bincount(labels, minlength=train.num_classes)
  if len(indices) != counts.sum() or set(counts) != {examples_per_class}:
    raise InputError(
      f"{_KEY}={path} does not hold {examples_per_class} examples of each of "
      f"the {train.num_classes} classes of {train.name}"
    )
