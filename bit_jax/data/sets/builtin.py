"""Two image sets that need no download: what they have in common.

`glyphs` draws letters of ten scripts; `digits` holds handwritten digits. No
letter is, or looks like, a digit, so that what glyphs teach can be measured on
digits as in the paper: classes never seen before, few examples of each.
"""

import hashlib
from collections.abc import Callable, Iterable

import cv2
import numpy as np

from bit_jax.data.source import Examples, Source
from bit_jax.errors import InputError

# Raise when any example of a set changes: the fingerprints change with it.
_VERSION = 1

SPLITS = ("train", "test")
IMAGE_PX = 32


def check_split(name: str, split: str) -> None:
  """Raises InputError unless both sets have a split."""
  if split not in SPLITS:
    raise InputError(
      f"{name} has no split {split!r}; expected one of {', '.join(SPLITS)}"
    )


def make_source(
  name: str,
  split: str,
  examples: Examples,
  read_labels: Callable[[], np.ndarray],
  class_names: Iterable[str],
  *data: bytes,
) -> Source:
  """Returns the examples of a split with what is true of both sets.

  Args:
    name: of the set.
    split: one of SPLITS.
    examples: with images uint8[32, 32, 3].
    read_labels: as in `Source`.
    class_names: one a class.
    *data: what the examples follow from, besides the code.
  """
  return Source(
    name=f"{name} {split}",
    examples=examples,
    class_names=tuple(class_names),
    image_px=(IMAGE_PX, IMAGE_PX),
    fingerprint=_fingerprint(name, split, *data),
    read_labels=read_labels,
    native_px=IMAGE_PX,
    flip=False,
  )


def enlarge(image: np.ndarray) -> np.ndarray:
  """Returns a smaller uint8[H, W] as uint8[32, 32], interpolated."""
  return cv2.resize(image, (IMAGE_PX, IMAGE_PX), interpolation=cv2.INTER_CUBIC)


def _fingerprint(name: str, split: str, *data: bytes) -> str:
  digest = hashlib.sha256(f"{name} {split} {_VERSION}".encode())
  for part in data:
    digest.update(part)
  return digest.hexdigest()[:16]
