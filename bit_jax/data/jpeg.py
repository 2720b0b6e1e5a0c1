"""Decodes JPEGs with libjpeg-turbo, leaving out the rows below a crop.

OpenCV and Pillow decode with the same library to the same pixels; simplejpeg
takes 0.6 to 0.7 of OpenCV 5's time and writes RGB at once. None of them offers
libjpeg-turbo's partial decoding. But the rows of a JPEG in one sequential scan
come from top to bottom, so a header that claims fewer rows makes any decoder
stop there. The Huffman codes of what is above and beside a crop have to be read
in any case, which is where most of the time goes.

`decode` returns None for images that it cannot handle; `bit_jax.data.decode`
then uses another decoder.
"""

import importlib.metadata
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bit_jax.data.formats import limits, tiff
from bit_jax.data.formats.reader import Reader

if TYPE_CHECKING:
  import simplejpeg
else:
  try:
    import simplejpeg
  # There is no wheel for some platforms.
  except ImportError:
    simplejpeg = None

_VERSION = importlib.metadata.version("simplejpeg") if simplejpeg else ""
_START_OF_IMAGE = b"\xff\xd8"
END_OF_IMAGE = b"\xff\xd9"
# Starts of frames with Huffman codes (the last is progressive), and of all.
_SEQUENTIAL = (0xC0, 0xC1)
_HUFFMAN = (*_SEQUENTIAL, 0xC2)
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
# Markers without a size: restarts, start of image, and one without a meaning.
_BARE = (0x01, *range(0xD0, 0xD9))
_START_OF_SCAN, _END = 0xDA, 0xD9
_PADDING = 0xFF
_APP1 = 0xE1
_EXIF = b"Exif\0"
# Bytes in which the header of a file is searched, one after the other: a
# profile or a thumbnail may take long before the pixels.
_HEADS = (1 << 14, 1 << 18, 1 << 62)
# Bytes between two segments that are passed over, as decoders do.
_MAX_JUNK = 4096
# Upsampling smooths chroma across rows, so that a row's pixels depend on the
# next chroma row too.
_ROWS_AHEAD = 1
# The last bytes in which the end marker is searched: other data may follow it.
_TAIL = 1 << 16


def version() -> str:
  """Returns simplejpeg's version, '' if it is not installed."""
  return _VERSION if simplejpeg else ""


class Header(NamedTuple):
  """Properties of a JPEG, from its header.

  Attributes:
    height: Height in pixels, as stored.
    width: Width in pixels, as stored.
    height_at: Offset in the file of the two bytes of the height.
    scan_at: Offset of the first scan.
    frame: The marker that starts the frame, which says how it is coded.
    bits: Bits of a sample.
    components: Samples of a pixel.
    one_scan: True if one sequential scan holds all rows, from top to bottom.
    orientation: How to turn it, as in EXIF; 1 if it is upright.
    is_ordinary: True if `decode` can handle it: 8 bits, grey or colour, and not
      reduced.
  """

  height: int
  width: int
  height_at: int
  scan_at: int
  frame: int
  bits: int
  components: int
  one_scan: bool
  orientation: int
  is_ordinary: bool

  @property
  def reduction(self) -> int:
    """The factor by which it is decoded smaller, to bound the memory.

    Progressive images need memory for all their coefficients in any case.
    """
    if self.frame not in _SEQUENTIAL:
      return 1
    return limits.reduction(self.height, self.width)


def read_header(image: bytes | Reader) -> Header | None:
  """Returns the header of a JPEG, or None if it is none or is broken.

  Args:
    image: An encoded image; of a file, only the header is read.
  """
  if isinstance(image, bytes):
    return _read_header(image)
  for size in _HEADS:
    found = _read_header(image.read(0, size))
    if found or size >= image.num_bytes:
      return found
  return None


def _read_header(data: bytes) -> Header | None:
  """Reads a header from the first bytes; None if they do not hold all of it."""
  if not data.startswith(_START_OF_IMAGE):
    return None
  frame, orientation, at = None, 0, 2
  # The longest of what is read of a segment is that of a frame.
  while at + 10 < len(data):
    kind = data[at + 1]
    if data[at] != 0xFF:
      at = data.find(b"\xff", at, at + _MAX_JUNK)
      if at < 0:
        return None
      continue
    if kind == _PADDING:
      at += 1
      continue
    if kind in _BARE:
      at += 2
      continue
    size = data[at + 2] << 8 | data[at + 3]
    if kind == _END or size < 2:
      return None
    if kind == _APP1:
      # Of several blocks of EXIF, the first counts.
      if not orientation and data.startswith(_EXIF, at + 4):
        if at + 2 + size > len(data):
          return None
        orientation = tiff.exif_orientation(data[at + 4 : at + 2 + size])
    elif kind == _START_OF_SCAN:
      # No frame before the scan, or one whose rows are counted after it.
      if not frame or not frame[0] * frame[1]:
        return None
      height, width, height_at, coding, bits, components = frame
      one_scan = coding in _SEQUENTIAL and data[at + 4] == components
      is_ordinary = (
        simplejpeg is not None
        and bits == 8
        and components in (1, 3)
        and coding in _HUFFMAN
        and height * width <= limits.MAX_PIXELS
      )
      return Header(
        *(height, width, height_at, at, coding, bits, components, one_scan),
        orientation or 1,
        is_ordinary,
      )
    elif kind in _FRAMES:
      height = data[at + 5] << 8 | data[at + 6]
      width = data[at + 7] << 8 | data[at + 8]
      frame = height, width, at + 5, kind, data[at + 4], data[at + 9]
    at += 2 + size
  return None


def ends(image: bytes | Reader, header: Header) -> bool:
  """Returns True if the end marker is there.

  Args:
    image: An encoded image; of a file, only the end is read. Data that follows
      the marker may hide it there.
    header: Its header.
  """
  if isinstance(image, bytes):
    return image.endswith(END_OF_IMAGE) or (
      image.rfind(END_OF_IMAGE, header.scan_at) >= 0
    )
  size = min(_TAIL, image.num_bytes - header.scan_at)
  # Coded pixels never hold these two bytes; a thumbnail before them does.
  return END_OF_IMAGE in image.tail(size)


def decode(
  data: bytes, header: Header, num_rows: int | None = None
) -> np.ndarray | None:
  """Decodes a JPEG, or only its first rows.

  Args:
    data: The encoded image.
    header: The image's header, as returned by `read_header`.
    num_rows: Rows needed from the top; None for all.

  Returns:
    uint8[H, W, 3], RGB, contiguous and writable, as stored, where H is the
    image's height or, with num_rows, at least that many rows. None if the data
    is damaged or not ordinary; but in the first rows alone, damage shows in the
    pixels, as in viewers.
  """
  if not header.is_ordinary:
    return None
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


def is_sound(data: bytes) -> bool:
  """Returns True if a CMYK JPEG has no damage that libjpeg-turbo knows of."""
  try:
    simplejpeg.decode_jpeg(data, "CMYK", strict=True)
  except (ValueError, RuntimeError):
    return False
  return True
