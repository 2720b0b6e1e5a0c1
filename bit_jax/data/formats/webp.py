"""Reads the headers of WebP files."""

from bit_jax.data.formats.reader import Reader

_ALPHA, _EXIF, _ANIMATION = 0x10, 0x08, 0x02


def header(reader: Reader) -> tuple[int, int] | None:
  """Returns (height, width), or None if the header is broken."""
  start = reader.read(0, 30)
  kind, body = start[12:16], start[20:]
  if len(body) < 5 or (len(body) < 10 and kind != b"VP8L"):
    return None
  if kind == b"VP8X":
    width = int.from_bytes(body[4:7], "little") + 1
    height = int.from_bytes(body[7:10], "little") + 1
  elif kind == b"VP8L" and body[0] == 0x2F:
    sizes = int.from_bytes(body[1:5], "little")
    width, height = (sizes & 0x3FFF) + 1, (sizes >> 14 & 0x3FFF) + 1
  elif kind == b"VP8 " and body[3:6] == b"\x9d\x01\x2a":
    width = int.from_bytes(body[6:8], "little") & 0x3FFF
    height = int.from_bytes(body[8:10], "little") & 0x3FFF
  else:
    return None
  return (height, width) if height and width else None


def exif(reader: Reader) -> bytes:
  """Returns the EXIF block, b'' if there is none."""
  start = reader.read(12, 9)
  if start[:4] != b"VP8X" or not start[8] & _EXIF:
    return b""
  at = 12
  while len(chunk := reader.read(at, 8)) == 8:
    size = int.from_bytes(chunk[4:], "little")
    if chunk[:4] == b"EXIF":
      return reader.read(at + 8, size)
    at += 8 + size + size % 2
  return b""


def is_plain(data: bytes) -> bool:
  """Returns True for one image without transparency and EXIF."""
  chunk, flags = data[12:16], data[20:25]
  if chunk == b"VP8X":
    return not flags[0] & (_ALPHA | _EXIF | _ANIMATION)
  if chunk == b"VP8L":
    return not flags[4] & _ALPHA
  return chunk == b"VP8 "


def ends(reader: Reader) -> bool:
  """Returns True if the file is as long as it says."""
  size = int.from_bytes(reader.read(4, 4), "little")
  return size + 8 <= reader.num_bytes
