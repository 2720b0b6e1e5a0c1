"""Decodes images, and checks image files before they are used.

JPEG, PNG, WebP, BMP, GIF (the first frame) and TIFF (the first page) are told
apart by their content, whatever their names. Three decoders, in this order:
1. `bit_jax.data.jpeg` decodes ordinary JPEGs, which are nearly all images.
2. OpenCV decodes other plain images.
3. Pillow decodes what OpenCV gets wrong in any version that we allow:
   transparency, animation, BMP, TIFF, and files that do not end as their format
   demands (OpenCV 4 returns a truncated JPEG with its rest in grey). It also
   gets a try at what the others refuse, for it prints nothing on stderr.
`bit_jax.data.formats` reads headers, and decides size and orientation for all.
"""

import dataclasses
import os
import threading
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from absl import logging

from bit_jax.data import jpeg
from bit_jax.data.formats import ends, headers, limits, pillow, png, webp
from bit_jax.data.formats.headers import Header
from bit_jax.data.formats.reader import Reader
from bit_jax.errors import InputError, one_line

# Damaged images raise an InputError; OpenCV's own message on stderr would only
# repeat it. (OpenCV 5 moved the function.)
_set_log_level = getattr(cv2, "setLogLevel", None)
(_set_log_level or cv2.utils.logging.setLogLevel)(0)

# OpenCV 4.10 has BGR alone.
_COLOUR: int = getattr(cv2, "IMREAD_COLOR_RGB", cv2.IMREAD_COLOR)
_STORED_IS_RGB = _COLOUR != cv2.IMREAD_COLOR
_AS_STORED = _COLOUR | cv2.IMREAD_IGNORE_ORIENTATION
_NO_END = "its end marker is missing; all pixels are there"
_DAMAGED = (
  "this JPEG is damaged; it is used with the pixels that viewers show of it"
)
# How to turn an image upright, by its EXIF orientation.
_UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
  2: lambda image: cv2.flip(image, 1),
  3: lambda image: cv2.rotate(image, cv2.ROTATE_180),
  4: lambda image: cv2.flip(image, 0),
  5: cv2.transpose,
  6: lambda image: cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE),
  7: lambda image: cv2.rotate(cv2.transpose(image), cv2.ROTATE_180),
  8: lambda image: cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE),
}


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
  image, note = _decode(data, name)
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
  return Checked(header.size, _decode(data, name)[1])


def warned(name: str) -> None:
  """Remembers that a warning has named an image; `decode` gives no other."""
  _told.add(name)


def median_size(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
  """Returns the (height, width) of median area; of two medians, the smaller."""
  ordered = sorted(sizes, key=lambda size: (size[0] * size[1], size))
  return ordered[(len(ordered) - 1) // 2]


def _decode(data: bytes, name: str) -> tuple[np.ndarray, str]:
  """Returns the upright image, and what is wrong with it or ''."""
  if found := jpeg.read_header(data):
    note = ""
    if not jpeg.ends(data, found):
      # The second byte of the marker alone may be missing. Zeros are the rest
      # of a download that ended early; decoders take them for pixels.
      data = data.rstrip(b"\0").removesuffix(b"\xff") + jpeg.END_OF_IMAGE
      note = _NO_END
    image = jpeg.decode(data, found)
    if image is not None:
      return _turned(image, found.orientation), note
    header = headers.of_jpeg(found, name)
    limits.check(header.height, header.width, name)
    if _is_for_opencv(data, found, note):
      image = _with_opencv(data)
    if image is None:
      if note:
        # Pillow fills up what is missing before an end marker.
        data = data.removesuffix(jpeg.END_OF_IMAGE)
      image = _with_pillow(data, header, name)
      note = _DAMAGED if found.is_ordinary else note
  elif data.startswith(png.SIGNATURE):
    parts = png.pixels(data)
    header = headers.of_png(data[: png.START], name, parts.exif)
    limits.check(header.height, header.width, name)
    image = None
    if parts.is_sound and parts.ends and not parts.has_transparency:
      image = _with_opencv(parts.data)
    if image is None:
      image = _with_pillow(parts.data, header, name)
    note = "" if parts.ends else _NO_END
  else:
    header = headers.read(Reader(data), name)
    limits.check(header.height, header.width, name)
    image, note = None, ""
    if header.kind == "WEBP" and webp.is_plain(data):
      image = _with_opencv(data)
    if image is None:
      image = _with_pillow(data, header, name)
  if image.shape[:2] != (header.height, header.width):
    raise InputError(
      f"{name}: the image is corrupt (its header says {header.width} x "
      f"{header.height} pixels)"
    )
  return _turned(image, header.orientation), note


def _turned(image: np.ndarray, orientation: int) -> np.ndarray:
  turn = _UPRIGHT.get(orientation)
  return turn(image) if turn else image


def _is_for_opencv(data: bytes, found: jpeg.Header, note: str) -> bool:
  """Returns True if OpenCV is to decode a JPEG that `jpeg` did not.

  It must not be given damaged files: libjpeg would print lines on stderr, which
  name no file.
  """
  if found.reduction > 1 or found.is_ordinary:
    # What is ordinary, `jpeg` has refused as damaged.
    return False
  is_sound = jpeg.is_sound(data) if found.components == 4 else None
  return not note if is_sound is None else is_sound


def _with_opencv(data: bytes) -> np.ndarray | None:
  """Decodes what any OpenCV that we allow decodes as a viewer would."""
  try:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), _AS_STORED)
  except cv2.error:
    return None
  if image is None or _STORED_IS_RGB:
    return image
  return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


def _with_pillow(data: bytes, header: Header, name: str) -> np.ndarray:
  """Decodes what the others refuse; if it fails too, its error says why."""
  try:
    return pillow.decode(data, header)
  # For broken bytes, Pillow's readers raise nearly any type of error.
  except Exception as error:
    if "unknown pixel mode" in str(error):
      raise InputError(
        f"{name}: a {header.kind} of a rare kind that cannot be read: convert "
        "it to PNG"
      ) from error
    raise InputError(
      f"{name}: the image is truncated or corrupt ({one_line(error)})"
    ) from error
