"""Scikit-learn's handwritten digits, a small set to transfer to."""

import dataclasses
import gzip
import importlib.util
import pathlib
from typing import Any

import cv2
import numpy as np

from bit_jax.data.sets import builtin
from bit_jax.data.source import Source


def load(split: str) -> Source:
  """Returns scikit-learn's handwritten digits, 1,797 in both splits together.

  An image is uint8[32, 32, 3] with equal channels: the 8x8 counts of 0 to 16,
  scaled to 0 to 255 and enlarged by bicubic interpolation.

  Args:
    split: `train` or `test`. Each has every other example of each class in the
      order of scikit-learn, `train` from the first on and `test` from the
      second on.

  Raises:
    InputError: There is no such split.
  """
  builtin.check_split("digits", split)
  table = _read_digits()
  counts, labels = table[:, :-1], table[:, -1]
  rank_in_class = np.empty_like(labels)
  for label in np.unique(labels):
    rank_in_class[labels == label] = np.arange(np.sum(labels == label))
  chosen = rank_in_class % len(builtin.SPLITS) == builtin.SPLITS.index(split)
  counts = counts[chosen].astype(np.uint8).reshape(-1, 8, 8)
  labels = labels[chosen].astype(np.int64)
  examples = _Digits(np.stack([_enlarge_counts(c) for c in counts]), labels)
  return builtin.make_source(
    "digits",
    split,
    examples,
    examples.read_labels,
    "0123456789",
    counts.tobytes(),
    labels.tobytes(),
  )


def _read_digits() -> np.ndarray:
  """Returns uint8[1797, 65]: per image 64 counts, row by row, and its label."""
  # The file is read without scikit-learn, whose import takes 1.5 seconds.
  spec = importlib.util.find_spec("sklearn")
  assert spec is not None
  assert spec.origin is not None
  path = pathlib.Path(spec.origin).parent / "datasets/data/digits.csv.gz"
  with gzip.open(path, "rt") as file:
    return np.loadtxt(file, delimiter=",", dtype=np.uint8)


@dataclasses.dataclass(frozen=True)
class _Digits:
  """Examples from arrays.

  Attributes:
    images: uint8[N, 32, 32], grey.
    labels: int64[N], in [0, 10).
  """

  images: np.ndarray
  labels: np.ndarray

  def __len__(self) -> int:
    return len(self.labels)

  def __getitem__(self, index: int) -> dict[str, Any]:
    image = cv2.cvtColor(self.images[index], cv2.COLOR_GRAY2RGB)
    return {"image": image, "label": int(self.labels[index])}

  def read_labels(self) -> np.ndarray:
    return self.labels.copy()


def _enlarge_counts(counts: np.ndarray) -> np.ndarray:
  """Converts counts uint8[8, 8] in [0, 16] to grey levels uint8[32, 32]."""
  return builtin.enlarge(np.rint(counts * (255 / 16)).astype(np.uint8))
