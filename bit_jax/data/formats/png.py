"""Takes the pixels out of a PNG, without what surrounds them.

Text, colour profiles and times do not change a pixel here, but make decoders
refuse a file (libpng and Pillow limit their size) or print lines on stderr that
name no file.
"""

import dataclasses
import zlib

from bit_jax.data.formats.reader import Reader

SIGNATURE = b"\x89PNG\r\n\x1a\n"
END = b"\0\0\0\0IEND\xaeB`\x82"
_PALETTE = 3
# The bytes at the end in which EXIF after the pixels is found, as only one read
# of the end is affordable for a whole folder.
TAIL = 1 << 16


@dataclasses.dataclass(frozen=True)
class Pixels:
  """The parts of a PNG that make its pixels.

  Attributes:
    data: A PNG of these parts.
    has_transparency: There is an alpha channel or a transparent colour.
    is_sound: All parts are there and undamaged, as far as their checksums tell.
    ends: The end marker is there.
  """

  data: bytes
  has_transparency: bool
  is_sound: bool
  ends: bool


def header(reader: Reader) -> tuple[int, int] | None:
  """Returns (height, width), or None if the header is broken."""
  start = reader.read(8, 17)
  if len(start) < 17 or start[:8] != b"\0\0\0\rIHDR":
    return None
  width = int.from_bytes(start[8:12], "big")
  height = int.from_bytes(start[12:16], "big")
  return (height, width) if 0 < height < 2**31 > width > 0 else None


def exif(reader: Reader) -> bytes:
  """Returns the EXIF block, b'' if there is none.

  It is searched before the pixels, and at the end of the file.
  """
  at = 8
  while len(start := reader.read(at, 8)) == 8 and start[4:] != b"IDAT":
    size = int.from_bytes(start[:4], "big")
    if start[4:] == b"eXIf":
      return reader.read(at + 8, size)
    at += 12 + size
  # Pixels may hold these four letters by chance, but not with the checksum.
  tail = reader.tail(TAIL)
  found = tail.rfind(b"eXIf")
  if found >= 4:
    size = int.from_bytes(tail[found - 4 : found], "big")
    end = found + 4 + size
    if tail[end : end + 4] == zlib.crc32(tail[found:end]).to_bytes(4, "big"):
      return tail[found + 4 : end]
  return b""


def pixels(data: bytes) -> Pixels:
  """Returns the parts of a PNG that make its pixels."""
  view, kept, at = memoryview(data), [(0, 8)], 8
  colour_type = data[25] if len(data) > 25 else 0
  has_transparency, is_sound = bool(colour_type & 4), True
  has_pixels = ends = False
  while at + 12 <= len(data) and not ends:
    kind = data[at + 4 : at + 8]
    end = at + 12 + int.from_bytes(view[at : at + 4], "big")
    wanted = kind in (b"IHDR", b"IDAT", b"IEND")
    # In images without a palette, one is only a suggestion.
    wanted |= kind == b"PLTE" and colour_type == _PALETTE
    if kind == b"tRNS" and not colour_type & 4 and not has_pixels:
      wanted = has_transparency = True
    has_pixels |= kind == b"IDAT"
    ends = kind == b"IEND"
    if wanted:
      crc = zlib.crc32(view[at + 4 : end - 4]).to_bytes(4, "big")
      is_sound &= end <= len(data) and crc == view[end - 4 : end]
      start, stop = kept[-1]
      kept[-1:] = [(start, end)] if stop == at else [kept[-1], (at, end)]
    at = end
  if kept == [(0, len(data))] and ends:
    return Pixels(data, has_transparency, is_sound, ends)
  parts = [view[start:stop] for start, stop in kept]
  if not ends:
    parts.append(memoryview(END))
  return Pixels(b"".join(parts), has_transparency, is_sound, ends)
