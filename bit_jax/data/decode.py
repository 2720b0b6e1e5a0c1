"""Decodes JPEG, PNG, WebP and BMP images; reads image sizes from headers.

Three decoders, in this order:
1. `bit_jax.data.jpeg` decodes plain JPEGs, which are nearly all images.
2. OpenCV decodes other plain images, and JPEGs that the first refuses.
3. Pillow decodes what OpenCV gets wrong in any version that we allow:
   transparency, WebP with EXIF or animation, BMP, and files that do not end as
   their format demands (OpenCV 4 returns a truncated JPEG with its rest in
   grey). It also gets a try at what OpenCV refuses.
"""

import dataclasses
import io
import os
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from PIL import ExifTags, Image

from bit_jax.data import jpeg
from bit_jax.errors import InputError

# Damaged images raise an InputError; OpenCV's own message on stderr would only
# repeat it. (OpenCV 5 moved the function.)
_set_log_level = getattr(cv2, "setLogLevel", None)
(_set_log_level or cv2.utils.logging.setLogLevel)(0)

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
# Flags of a WebP `VP8X` chunk: alpha, EXIF, animation.
_WEBP_SPECIAL = 0x10 | 0x08 | 0x02
_WEBP_LOSSLESS_ALPHA = 0x10
# How to turn an image upright, by its EXIF orientation.
_UPRIGHT = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}


def decode(data: bytes, name: str) -> np.ndarray:
  """Decodes a JPEG, PNG, WebP or BMP image to the pixels a viewer shows.

  Grey, palette, CMYK and 16-bit images become 8-bit RGB, the EXIF orientation
  is applied, and only the first frame of an animation is returned. Transparent
  images are laid on white: dropping alpha, as `convert("RGB")` does, shows the
  arbitrary colours stored under transparent pixels, and a black drawing on a
  transparent ground turns all black.

  Args:
    data: The encoded image.
    name: Name of the image in error messages.

  Returns:
    uint8[H, W, 3], RGB, contiguous and writable.

  Raises:
    InputError: The image is of another format, truncated or corrupt.
  """
  header = jpeg.read_header(data)
  image = header and jpeg.decode(data, header)
  if image is not None:
    return image
  if _is_plain(data):
    try:
      bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
      bgr = None
    if bgr is not None:
      return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB, dst=bgr)
  # What OpenCV refused comes here as well: Pillow may read it, and if not, its
  # error says why.
  return _decode_with_pillow(data, name)


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
    if header:
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
    InputError: The file or its header cannot be read.
  """
  with _open(image, name) as opened:
    width, height = opened.size
    rotated = _orientation(opened) in (5, 6, 7, 8)
  return (width, height) if rotated else (height, width)


def median_size(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
  """Returns the (height, width) of median area; of two medians, the smaller."""
  ordered = sorted(sizes, key=lambda size: (size[0] * size[1], size))
  return ordered[(len(ordered) - 1) // 2]


def _is_plain(data: bytes) -> bool:
  """Returns True if any OpenCV that we allow decodes it as a viewer would."""
  if data.startswith(b"\xff\xd8"):
    return data.endswith(b"\xff\xd9")
  if data.startswith(_PNG_START):
    has_alpha = data[25:26] in (b"\x04", b"\x06")
    if not has_alpha:
      # Without an alpha channel, a chunk before the pixels may still make a
      # colour or entries of the palette transparent.
      has_alpha = b"tRNS" in data[: data.find(b"IDAT")]
    return data.endswith(_PNG_END) and not has_alpha
  if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
    chunk, flags = data[12:16], data[20:25]
    if len(flags) < 5:
      return False
    if chunk == b"VP8X":
      return not flags[0] & _WEBP_SPECIAL
    if chunk == b"VP8L":
      return not flags[4] & _WEBP_LOSSLESS_ALPHA
    return chunk == b"VP8 "
  return False


def _decode_with_pillow(data: bytes, name: str) -> np.ndarray:
  with _open(data, name) as image:
    try:
      if image.mode.startswith("I"):
        # `convert` would clip 16-bit grey at 255 instead of scaling it.
        rgb = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        rgb = rgb.convert("RGB")
      elif image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        rgb = Image.alpha_composite(white, layer).convert("RGB")
      else:
        rgb = image.convert("RGB")
      orientation = _orientation(image)
    # For broken bytes, Pillow's readers raise nearly any type of error.
    except Exception as error:
      raise InputError(
        f"{name}: the image is truncated or corrupt ({error})"
      ) from error
  if orientation in _UPRIGHT:
    rgb = rgb.transpose(_UPRIGHT[orientation])
  return np.array(rgb)


def _open(image: bytes | str | os.PathLike[str], name: str) -> Image.Image:
  """Opens an image without decoding its pixels; the caller closes it."""
  try:
    if isinstance(image, bytes):
      return Image.open(io.BytesIO(image), formats=_FORMATS)
    return Image.open(image, formats=_FORMATS)
  except Image.DecompressionBombError as error:
    raise InputError(f"{name}: {error}") from error
  # Pillow raises ValueError for a header that is cut short.
  except (OSError, ValueError) as error:
    reason = getattr(error, "strerror", None) or (
      "not a JPEG, PNG, WebP or BMP image, or its header is corrupt"
    )
    raise InputError(f"{name}: {reason}") from error


def _orientation(image: Image.Image) -> int:
  """Returns the EXIF orientation, 1 (upright) to 8."""
  exif = Image.Exif()
  try:
    # `getexif` would decode a whole PNG in search of a late chunk, and would
    # take the orientation from XMP, which OpenCV does not read.
    exif.load(image.info.get("exif", b""))
    return int(exif.get(ExifTags.Base.Orientation, 1))
  # Broken EXIF does not mean broken pixels: the image is used as it is stored.
  except Exception:
    return 1
