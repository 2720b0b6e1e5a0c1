"""Decodes images, and checks image files before they are used.

JPEG, PNG, WebP, BMP, GIF (the first frame) and TIFF (the first page) are told
apart by their content, whatever their names.
`bit_jax.data.formats` reads headers, decides size and orientation for all, and
has the decoders.
"""

import dataclasses
import os
import threading
from collections.abc import Callable, Sequence

import numpy as np
from absl import logging

from bit_jax.data import jpeg
from bit_jax.data.formats import decoders, ends, headers, limits
from bit_jax.data.formats.reader import Reader
from bit_jax.errors import InputError


class _Told:
  """The images that a warning has named, each once in this process."""

  def __init__(self):
    self._names: set[str] = set()
    self._lock = threading.Lock()

  def add(self, name: str) -> bool:
    """Returns True if the image was not named before."""
    with self._lock:
      is_new = name not in self._names
      self._names.add(name)
    return is_new


_told = _Told()


def decode(data: bytes, name: str) -> np.ndarray:
  """Decodes a JPEG, PNG, WebP, BMP, GIF or TIFF to the pixels a viewer shows.

  Grey, palette, CMYK and 16-bit images become 8-bit RGB, the EXIF orientation
  is applied, and only the first frame of an animation or the first page is
  returned. Transparent images are laid on white. JPEGs of more than 179 million
  pixels are decoded at a half, a quarter or an eighth of their size. A JPEG
  that is damaged but that viewers show is decoded as they do, with a warning.

  Args:
    data: The encoded image.
    name: Name of the image in error messages and warnings.

  Returns:
    uint8[H, W, 3], RGB, contiguous and writable.

  Raises:
    InputError: The image is of another format, truncated, corrupt or too large.
  """
  image, note = decoders.decode(data, name)
  if note and _told.add(name):
    logging.warning("%s: %s", name, note)
  return image


@dataclasses.dataclass(frozen=True)
class Encoded:
  """An encoded image, of which a crop can be decoded without the rest.

  Attributes:
    data: The encoded image.
    name: Name of the image in error messages.
  """

  data: bytes
  name: str

  def decode(self) -> np.ndarray:
    """Returns the whole image: uint8[H, W, 3], RGB."""
    return decode(self.data, self.name)

  def crop(
    self, choose: Callable[[int, int], tuple[int, int, int, int]]
  ) -> np.ndarray:
    """Returns a box of the image: the same pixels as in the whole image.

    Args:
      choose: Maps the image's height and width to the box's (top, left, height,
        width).

    Returns:
      uint8[height, width, 3], RGB; a view whose rows may be apart in memory.

    Raises:
      InputError: The image is of another format, truncated or corrupt. Damage
        inside a JPEG that ends as it should may go unnoticed.
    """
    # The box depends on the image's size, which the header knows before any
    # pixel is decoded; rows below the box then need no decoding.
    header = jpeg.read_header(self.data)
    if (
      header
      and header.is_ordinary
      and header.orientation == 1
      and jpeg.ends(self.data, header)
    ):
      top, left, height, width = choose(header.height, header.width)
      image = jpeg.decode(self.data, header, top + height)
      if image is None:
        image = self.decode()
        # The box was chosen for the header's size. If the decoded image has
        # another one, the box may lie outside.
        if image.shape[:2] != (header.height, header.width):
          raise InputError(
            f"{self.name}: the image is corrupt (its header says "
            f"{header.width} x {header.height} pixels)"
          )
    else:
      image = self.decode()
      top, left, height, width = choose(image.shape[0], image.shape[1])
    return image[top : top + height, left : left + width]


def image_size(
  image: bytes | str | os.PathLike[str], name: str
) -> tuple[int, int]:
  """Returns (height, width) of the decoded image, reading only its header.

  Args:
    image: An encoded image, or the path of one.
    name: Name of the image in error messages.

  Returns:
    (height, width) in pixels, after the EXIF orientation is applied.

  Raises:
    InputError: The file or its header cannot be read, or the image is too
      large.
  """
  try:
    with Reader(image) as reader:
      header = headers.read(reader, name)
  except OSError as error:
    raise InputError(f"{name}: {error.strerror}") from error
  limits.check(header.height, header.width, name)
  return header.size


@dataclasses.dataclass(frozen=True)
class Checked:
  """The result for a file that can be used.

  Attributes:
    size: (height, width) in pixels as decoded.
    note: What is wrong with it nevertheless; '' if nothing is known.
  """

  size: tuple[int, int]
  note: str


def check(image: bytes | str | os.PathLike[str], name: str) -> Checked:
  """Checks that an image has a sound header and ends as its format should.

  Only the beginning and the end are read, unless the end is not what it should
  be: then the image is decoded. Damage in the middle is not found.

  Args:
    image: An encoded image, or the path of one.
    name: Name of the image in error messages.

  Raises:
    InputError: The image cannot be used.
    OSError: The file cannot be read; nothing is known of the image.
  """
  with Reader(image) as reader:
    header = headers.read(reader, name)
    limits.check(header.height, header.width, name)
    if ends.is_complete(reader, header):
      return Checked(header.size, "")
    data = reader.whole()
  return Checked(header.size, decoders.decode(data, name)[1])


def warned(name: str) -> None:
  """Remembers that a warning has named an image; `decode` gives no other."""
  _told.add(name)


def median_size(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
  """Returns the (height, width) of median area; of two medians, the smaller."""
  ordered = sorted(sizes, key=lambda size: (size[0] * size[1], size))
  return ordered[(len(ordered) - 1) // 2]
