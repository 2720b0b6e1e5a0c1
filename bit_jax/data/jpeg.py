"""Decodes JPEGs with libjpeg-turbo, leaving out the rows below a crop.

OpenCV and Pillow decode with the same library to the same pixels; simplejpeg
takes 0.6 to 0.7 of OpenCV 5's time and writes RGB at once. None of them offers
libjpeg-turbo's partial decoding. But the rows of a JPEG in one sequential scan
come from top to bottom, so a header that claims fewer rows makes any decoder
stop there. The Huffman codes of what is above and beside a crop have to be read
in any case, which is where most of the time goes.

`read_header` and `decode` return None for images that they cannot handle;
`bit_jax.data.decode` then uses another decoder.
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
  # There is no wheel for some platforms.
  except ImportError:
    simplejpeg = None

_START_OF_IMAGE = b"\xff\xd8"
_END_OF_IMAGE = b"\xff\xd9"
# Starts of frames with Huffman codes.
_SEQUENTIAL = (0xC0, 0xC1)
_PROGRESSIVE = 0xC2
_START_OF_SCAN = 0xDA
_PADDING = 0xFF
_APP1 = 0xE1
_EXIF = b"Exif\0\0"
# Upsampling smooths chroma across rows, so that a row's pixels depend on the
# next chroma row too.
_ROWS_AHEAD = 1
# Larger images are left to OpenCV and Pillow, which limit the size.
_MAX_PIXELS = 2**27


def version() -> str:
  """Returns simplejpeg's version, '' if it is not installed."""
  return importlib.metadata.version("simplejpeg") if simplejpeg else ""


@dataclasses.dataclass(frozen=True)
class Header:
  """Properties of a JPEG, from its header.

  Attributes:
    height: Height in pixels.
    width: Width in pixels.
    height_at: Offset in the file of the two bytes of the height.
    one_scan: True if one sequential scan holds all rows, from top to bottom.
  """

  height: int
  width: int
  height_at: int
  one_scan: bool


def read_header(data: bytes) -> Header | None:
  """Returns the header of a JPEG that `decode` can handle.

  Args:
    data: An encoded image.

  Returns:
    The header, or None if simplejpeg is not installed or the image is not an
    upright, complete, 8-bit grey or colour JPEG.
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
      # Nothing here turns or mirrors an image; the other decoders do.
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
      # No frame before the scan, or one of a kind that is not handled here.
      if not frame:
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
  """Decodes a JPEG, or only its first rows.

  Args:
    data: The encoded image.
    header: The image's header, as returned by `read_header`.
    num_rows: Rows needed from the top; None for all.

  Returns:
    uint8[H, W, 3], RGB, contiguous and writable, where H is the image's height
    or, with num_rows, at least that many rows. None if the data is damaged;
    but in the first rows alone, damage shows in the pixels, as in viewers.
  """
  rows = header.height if num_rows is None else num_rows + _ROWS_AHEAD
  is_part = header.one_scan and rows < header.height
  encoded: bytes | bytearray = data
  if is_part:
    encoded = bytearray(data)
    at = header.height_at
    encoded[at : at + 2] = rows.to_bytes(2, "big")
  try:
    # Strict decoding would refuse the rows that the header no longer mentions.
    image = simplejpeg.decode_jpeg(encoded, "RGB", strict=not is_part)
  except (ValueError, RuntimeError):
    return None
  expected = (rows if is_part else header.height, header.width)
  return image if image.shape[:2] == expected else None


def _is_upright(exif: bytes) -> bool:
  """Returns True unless an EXIF segment asks to turn or mirror the image."""
  parsed = Image.Exif()
  try:
    parsed.load(exif)
    return int(parsed.get(ExifTags.Base.Orientation, 1)) not in range(2, 9)
  # Broken EXIF does not mean broken pixels: the image is used as it is stored.
  except Exception:
    return True
