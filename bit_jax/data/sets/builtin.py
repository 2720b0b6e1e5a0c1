"""Shared code of `glyphs` and `digits`, two sets that need no download.

`glyphs` draws letters of ten scripts; `digits` has handwritten digits. No
letter is, or looks like, a digit, so that a network pre-trained on glyphs can
be transferred to digits as in the paper: to classes never seen before, with few
examples of each.
"""

import hashlib
from collections.abc import Callable, Iterable

import cv2
import numpy as np

from bit_jax.data.source import Examples, Source
from bit_jax.errors import InputError

# Increase it when any example of a set changes: it is part of the fingerprints.
_VERSION = 1

SPLITS = ("train", "test")
IMAGE_PX = 32


def check_split(name: str, split: str) -> None:
  """Checks the name of a split.

  Args:
    name: Name of the set, for the message.
    split: The split; both sets have those of SPLITS.

  Raises:
    InputError: There is no such split.
  """
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
  """Returns a split as a source, with the properties that both sets share.

  Args:
    name: Name of the set.
    split: One of SPLITS.
    examples: Examples with images uint8[32, 32, 3].
    read_labels: Returns all labels as int64[len(examples)], in order.
    class_names: One name per class.
    *data: The data that the examples are made from, for the fingerprint.
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
  """Enlarges uint8[H, W] to uint8[32, 32] by bicubic interpolation."""
  return cv2.resize(image, (IMAGE_PX, IMAGE_PX), interpolation=cv2.INTER_CUBIC)


def _fingerprint(name: str, split: str, *data: bytes) -> str:
  digest = hashlib.sha256(f"{name} {split} {_VERSION}".encode())
  for part in data:
    digest.update(part)
  return digest.hexdigest()[:16]
