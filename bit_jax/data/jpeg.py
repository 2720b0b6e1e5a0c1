"""JPEGs by libjpeg-turbo alone, without decoding the rows below a crop.

OpenCV and Pillow decode with the same library to the same pixels; simplejpeg
takes 0.6 to 0.7 of OpenCV 5's time and writes RGB at once. None of them offers
libjpeg-turbo's partial decoding. But the rows of a JPEG in one sequential scan
come from top to bottom, so a header that claims fewer rows makes any decoder
stop there. What is above and beside a crop has to be read by its Huffman codes
in any case, which is where most of the time goes.

Everything here may answer None, "not for me"; `bit_jax.data.decode` then goes
another way.
"""

import dataclasses
import importlib.metadata
from typing import TYPE_CHECKING

import numpy as np
from PIL import ExifTags, Image

if TYPE_CHECKING:
  import simplejpeg
else:
  try:
    import simplejpeg
  except ImportError:  # No wheel for this platform.
    simplejpeg = None

_START_OF_IMAGE = b"\xff\xd8"
_END_OF_IMAGE = b"\xff\xd9"
_SEQUENTIAL = (0xC0, 0xC1)  # Starts of frames, with Huffman codes.
_PROGRESSIVE = 0xC2
_START_OF_SCAN = 0xDA
_PADDING = 0xFF
_APP1 = 0xE1
_EXIF = b"Exif\0\0"
# Smoothed chroma takes in the next chroma row.
_ROWS_AHEAD = 1
# OpenCV and Pillow, which have limits, judge larger images.
_MAX_PIXELS = 2**27


def version() -> str:
  """Returns what decodes here, '' where that is left to others."""
  return importlib.metadata.version("simplejpeg") if simplejpeg else ""


@dataclasses.dataclass(frozen=True)
class Header:
  """What a JPEG says about itself.

  Attributes:
    height: in pixels.
    width: in pixels.
    height_at: where in the file the two bytes of the height are.
    one_scan: the rows come one after the other.
  """

  height: int
  width: int
  height_at: int
  one_scan: bool


def read_header(data: bytes) -> Header | None:
  """Returns the header of a JPEG that `decode` may be tried on.

  Args:
    data: an encoded image.

  Returns:
    None for all that is no upright, complete, 8-bit grey or colour JPEG, and
    where simplejpeg is not installed.
  """
  if simplejpeg is None or not (
    data.startswith(_START_OF_IMAGE) and data.endswith(_END_OF_IMAGE)
  ):
    return None
  frame, at = None, 2
  while at + 10 < len(data):
    if data[at] != 0xFF:
      return None
    kind = data[at + 1]
    if kind == _PADDING:
      at += 1
      continue
    size = data[at + 2] << 8 | data[at + 3]
    if kind == _APP1 and data.startswith(_EXIF, at + 4):
      if not _is_upright(data[at + 4 : at + 2 + size]):
        return None
    elif kind in _SEQUENTIAL or kind == _PROGRESSIVE:
      bits, components = data[at + 4], data[at + 9]
      if bits != 8 or components not in (1, 3):
        return None
      height = data[at + 5] << 8 | data[at + 6]
      width = data[at + 7] << 8 | data[at + 8]
      frame = kind, components, height, width, at + 5
    elif kind == _START_OF_SCAN:
      if not frame:  # Or one of another kind.
        return None
      kind, components, height, width, height_at = frame
      if not 0 < height * width <= _MAX_PIXELS:
        return None
      one_scan = kind in _SEQUENTIAL and data[at + 4] == components
      return Header(height, width, height_at, one_scan)
    at += 2 + size
  return None


def decode(
  data: bytes, header: Header, num_rows: int | None = None
) -> np.ndarray | None:
  """Decodes a JPEG, or just its first rows.

  Args:
    data: the encoded image.
    header: of `read_header`.
    num_rows: rows that are needed from the top; None for all.

  Returns:
    uint8[H, W, 3], RGB, contiguous and writable, where H is the image's height,
    or at least num_rows. None where the data is damaged; but damage within
    num_rows shows, as it does in viewers.
  """
  rows = header.height if num_rows is None else num_rows + _ROWS_AHEAD
  is_part = header.one_scan and rows < header.height
  encoded: bytes | bytearray = data
  if is_part:
    encoded = bytearray(data)
    at = header.height_at
    encoded[at : at + 2] = rows.to_bytes(2, "big")
  try:
    # Strict, it would refuse the rows that the header no longer mentions.
    image = simplejpeg.decode_jpeg(encoded, "RGB", strict=not is_part)
  except (ValueError, RuntimeError):
    return None
  expected = (rows if is_part else header.height, header.width)
  return image if image.shape[:2] == expected else None


def _is_upright(exif: bytes) -> bool:
  """Whether an EXIF segment leaves the image as it is stored."""
  parsed = Image.Exif()
  try:
    parsed.load(exif)
    return int(parsed.get(ExifTags.Base.Orientation, 1)) not in range(2, 9)
  except Exception:  # Broken EXIF says nothing about the pixels.
    return True
