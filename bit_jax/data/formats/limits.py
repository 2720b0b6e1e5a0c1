"""Limits of the size of an image, for memory's sake."""

import os

from bit_jax.errors import InputError

# Twice Pillow's MAX_IMAGE_PIXELS, where its error begins: 0.5 GB of pixels.
MAX_PIXELS = 178_956_970
# OpenCV's own name for it; OpenCV refuses more than 2**30 pixels.
OPTION = "OPENCV_IO_MAX_IMAGE_PIXELS"


def too_large(height: int, width: int) -> str:
  """Returns why an image is too large to be decoded; '' if it is not."""
  pixels = height * width
  if pixels <= MAX_PIXELS:
    return ""
  given = os.environ.get(OPTION, "")
  limit = int(given) if given.isdecimal() else MAX_PIXELS
  if pixels <= limit:
    return ""
  return (
    f"its {width} x {height} pixels are more than {limit:,}; make it smaller, "
    f"or set the environment variable {OPTION}={pixels} (it takes "
    f"{3 * pixels / 1e9:.1f} GB of memory in each decoding thread)"
  )


def check(height: int, width: int, name: str) -> None:
  """Raises InputError if an image is too large to be decoded."""
  if problem := too_large(height, width):
    raise InputError(f"{name}: {problem}")


def reduction(height: int, width: int) -> int:
  """Returns 1, 2, 4 or 8, by which a JPEG is decoded smaller.

  JPEGs have this for free, so that none is too large. It does not depend on the
  environment, which must not change the pixels of a run.
  """
  for factor in (1, 2, 4):
    if -(-height // factor) * -(-width // factor) <= MAX_PIXELS:
      return factor
  return 8
