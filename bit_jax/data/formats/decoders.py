"""Chooses the decoder of an image, and turns it upright.

Three decoders, in this order:
1. `bit_jax.data.jpeg` decodes ordinary JPEGs, which are nearly all images.
2. OpenCV decodes other plain images.
3. Pillow decodes what OpenCV gets wrong in any version that we allow:
   transparency, animation, BMP, TIFF, and files that do not end as their format
   demands (OpenCV 4 returns a truncated JPEG with its rest in grey). It also
   gets a try at what the others refuse, for it prints nothing on stderr.
"""

from collections.abc import Callable

import cv2
import numpy as np

from bit_jax.data import jpeg
from bit_jax.data.formats import headers, limits, pillow, png, webp
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
_CMYK = 4
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


def decode(data: bytes, name: str) -> tuple[np.ndarray, str]:
  """Decodes an image.

  Args:
    data: The encoded image.
    name: Name of the image in error messages.

  Returns:
    The upright image, uint8[H, W, 3], RGB, contiguous and writable; and what is
    wrong with it nevertheless, '' if nothing is known.

  Raises:
    InputError: The image is of another format, truncated, corrupt or too large.
  """
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
      if found.is_ordinary or (
        found.components == _CMYK and found.reduction == 1 and jpeg.version()
      ):
        note = _DAMAGED
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
  if found.reduction > 1:
    return False
  if jpeg.version():
    # Of the others, some are damaged and all are rare.
    return found.components == _CMYK and jpeg.is_sound(data)
  return not note


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
