"""Takes the pixels out of a PNG, without what surrounds them.

Text, colour profiles and times do not change a pixel here, but make decoders
refuse a file (libpng and Pillow limit their size) or print lines on stderr that
name no file.
"""

import re
import struct
import zlib
from typing import NamedTuple

from bit_jax.data.formats.reader import Reader

SIGNATURE = b"\x89PNG\r\n\x1a\n"
START = 33  # Bytes of signature and header.
END = b"\0\0\0\0IEND\xaeB`\x82"
_PALETTE = 3
_SIZE = struct.Struct(">II").unpack_from
_CHUNK = struct.Struct(">I4s").unpack_from
_CRC = struct.Struct(">I").unpack_from
_LATE_EXIF = re.compile(b"eXIf")
# The bytes at the end in which EXIF after the pixels is found, as only one read
# of the end is affordable for a whole folder.
TAIL = 1 << 16


class Pixels(NamedTuple):
  """The parts of a PNG that make its pixels.

  Attributes:
    data: A PNG of these parts.
    has_transparency: There is an alpha channel or a transparent colour.
    is_sound: All parts are there and undamaged, as far as their checksums tell.
    ends: The end marker is there.
    exif: The EXIF block, the one that `exif` finds; b'' if there is none.
  """

  data: bytes
  has_transparency: bool
  is_sound: bool
  ends: bool
  exif: bytes


def size(start: bytes) -> tuple[int, int] | None:
  """Returns (height, width), or None if the header is broken.

  Args:
    start: The first bytes of a PNG, START of them.
  """
  if len(start) < START or start[8:16] != b"\0\0\0\rIHDR":
    return None
  width, height = _SIZE(start, 16)
  return (height, width) if 0 < height < 2**31 > width > 0 else None


def exif(reader: Reader) -> bytes:
  """Returns the EXIF block, b'' if there is none.

  It is searched before the pixels, and after them at the end of the file.
  """
  at = 8
  while len(start := reader.read(at, 8)) == 8 and start[4:] != b"IDAT":
    size = int.from_bytes(start[:4], "big")
    if start[4:] == b"eXIf":
      return reader.read(at + 8, size)
    at += 12 + size
  tail = reader.tail(min(TAIL, max(0, reader.num_bytes - at)))
  for match in _LATE_EXIF.finditer(tail):
    found = match.start()
    end = found + 4 + int.from_bytes(tail[found - 4 : found], "big")
    # Pixels may hold these four letters by chance, but not with the checksum.
    if found >= 4 and _is_sound(tail, found, end):
      return tail[found + 4 : end]
  return b""


def pixels(data: bytes) -> Pixels:
  """Returns the parts of a PNG that make its pixels."""
  whole, view, at, stop = data, memoryview(data), 8, 8
  colour_type = data[25] if len(data) > 25 else 0
  has_transparency, is_sound = bool(colour_type & 4), True
  has_pixels = ends = False
  block = b""
  # Stretches of wanted chunks; one until a chunk between them is not wanted.
  first, stretches = 0, []
  while at + 12 <= len(data) and not ends:
    size, kind = _CHUNK(data, at)
    end = at + 12 + size
    if kind == b"IDAT":
      wanted = has_pixels = True
    elif kind == b"IEND":
      wanted = ends = True
    elif kind == b"IHDR":
      wanted = True
    elif kind == b"PLTE":
      # In images without a palette, one is only a suggestion.
      wanted = colour_type == _PALETTE
    elif kind == b"tRNS":
      wanted = not colour_type & 4 and not has_pixels
      has_transparency |= wanted
    else:
      wanted = False
      if kind == b"eXIf" and not block:
        # As `exif` does it, which cannot walk along the pixels of every file.
        is_late = at >= len(data) - TAIL and _is_sound(view, at + 4, end - 4)
        if is_late or not has_pixels:
          block = data[at + 8 : end - 4]
    if wanted:
      is_sound = is_sound and _is_sound(view, at + 4, end - 4)
      if stop != at:
        stretches.append(view[first:stop])
        first = at
      stop = end
    at = end
  if stretches or stop != len(data) or not ends:
    stretches.append(view[first:stop])
    data = b"".join(stretches if ends else [*stretches, END])
  if not (is_sound and ends):
    # The chain of chunks may be broken, so that the end is not reached by it.
    block = exif(Reader(whole))
  return Pixels(data, has_transparency, is_sound, ends, block)


def _is_sound(data: bytes | memoryview, start: int, end: int) -> bool:
  """Returns True if a chunk, from its name on, has the checksum after it."""
  return end + 4 <= len(data) and (
    _CRC(data, end)[0] == zlib.crc32(data[start:end])
  )
