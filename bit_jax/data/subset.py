"""Subsets of a training set, kept in a file that many runs can share.

The file is JSON: `indices` into the training examples, and `of`, the
fingerprint of what they index.
"""

import json
from collections.abc import Sequence

import numpy as np
from etils import epath

from bit_jax.data import datasets
from bit_jax.data.source import Source
from bit_jax.errors import InputError
from bit_jax.storage import files

_KEY = "config.data.subset_file"


def read(path: epath.PathLike, train: Source) -> np.ndarray:
  """Returns the indices, int64[N], that a file holds for a training set.

  Raises:
    InputError: it cannot be read, or belongs to other examples.
  """
  try:
    stored = json.loads(epath.Path(path).read_text())
    of, indices = stored["of"], np.asarray(stored["indices"])
  except (OSError, ValueError, LookupError, TypeError) as e:
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
  """Keeps a subset in a file, whole or not at all.

  Raises:
    InputError: it cannot be written.
  """
  path = epath.Path(path)
  stored = {"of": train.fingerprint, "indices": [int(i) for i in indices]}
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, json.dumps(stored) + "\n")
  except OSError as e:
    raise InputError(f"{_KEY}={path} cannot be written: {e}") from e


def balanced(train: Source, examples_per_class: int, seed: int) -> np.ndarray:
  """Draws equally many examples of each class; see sources.few_shot_indices."""
  return datasets.few_shot_indices(
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
  """Raises InputError unless a stored subset is k distinct of each class."""
  # Not train.read_labels(): that reads the whole set.
  labels = [train.examples[int(i)]["label"] for i in np.unique(indices)]
  counts = np.bincount(labels, minlength=train.num_classes)
  if len(indices) != counts.sum() or set(counts) != {examples_per_class}:
    raise InputError(
      f"{_KEY}={path} does not hold {examples_per_class} examples of each of "
      f"the {train.num_classes} classes of {train.name}"
    )
