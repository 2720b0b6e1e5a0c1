"""Reads the tags of TIFF files and of EXIF, which has their form.

Pillow's reader of EXIF drops an orientation that is not stored as SHORT or
LONG, and gives up at the first broken tag; OpenCV's knows SHORT alone. What
turns an image is decided here, for the scan and for all decoders alike.
"""

import dataclasses
import struct
from collections.abc import Mapping

from bit_jax.data.formats.reader import Reader

BIG_BIG = b"MM\0+"  # BigTIFF, big-endian.
STARTS = (b"II*\0", b"MM\0*", b"II+\0", BIG_BIG)
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
STRIPS, ORIENTATION, STRIP_BYTES, SUB_IFDS = 273, 274, 279, 330
TILES, TILE_BYTES, SAMPLE_FORMAT, DNG_VERSION = 324, 325, 339, 50706
NEW_SUBFILE_TYPE = 254
# Bytes and struct code of one value, by the type of a tag.
_BYTE, _ASCII, _SHORT, _RATIONALS = 1, 2, 3, (5, 10)
_TYPES = {
  **{_BYTE: "B", _ASCII: "B", _SHORT: "H", 4: "I", 5: "II", 6: "b", 7: "B"},
  **{8: "h", 9: "i", 10: "ii", 11: "f", 12: "d", 13: "I"},
  **{16: "Q", 17: "q", 18: "Q"},
}
# The types of BigTIFF alone, and the classic ones in their place.
_CLASSIC = {16: 4, 17: 9, 18: 13}
# No sound file has more tags, or more strips that would have to be looked at.
_MAX_TAGS, _MAX_VALUES = 4096, 1 << 20


@dataclasses.dataclass(frozen=True)
class Tag:
  """A tag: its type, the number of its values, and their offset."""

  kind: int
  count: int
  values_at: int


class Tags:
  """The tags of the first page of a TIFF, or of the image that EXIF is about.

  Broken tags are left out; without any sound one there are none.
  """

  def __init__(self, reader: Reader):
    """Reads which tags there are; their values are read when asked for."""
    self._reader = reader
    self._found: Mapping[int, tuple[int, Tag]] = {}
    start = reader.read(0, 16)
    order = {b"II": "<", b"MM": ">"}.get(start[:2])
    if order is None or len(start) < 8:
      return
    self._order, self._is_big = order, b"+" in start[2:4]
    if self._is_big:
      at = self._unpack("Q", start[8:])
      count = self._unpack("Q", reader.read(at, 8))
      first, size = at + 8, 20
    else:
      at = self._unpack("I", start[4:])
      count = self._unpack("H", reader.read(at, 2))
      first, size = at + 2, 12
    self._found = self._entries(first, size, min(count, _MAX_TAGS))

  def _unpack(self, code: str, data: bytes) -> int:
    size = struct.calcsize(self._order + code)
    if len(data) < size:
      return 0
    return struct.unpack(self._order + code, data[:size])[0]

  def _entries(
    self, first: int, size: int, count: int
  ) -> dict[int, tuple[int, Tag]]:
    table = self._reader.read(first, size * count)
    counts, inline = ("Q", 8) if self._is_big else ("I", 4)
    found = {}
    for start in range(0, len(table) - size + 1, size):
      entry = table[start : start + size]
      tag, kind = self._unpack("H", entry), self._unpack("H", entry[2:])
      if kind not in _TYPES or tag in found:
        continue
      number = self._unpack(counts, entry[4:])
      at = first + start + size - inline
      if number * struct.calcsize(self._order + _TYPES[kind]) > inline:
        at = self._unpack(counts, entry[-inline:])
      found[tag] = first + start, Tag(kind, number, at)
    return found

  def __contains__(self, tag: int) -> bool:
    return tag in self._found

  def values(self, tag: int) -> list[float]:
    """Returns the values of a tag of numbers; [] if it is absent or broken."""
    if tag not in self._found:
      return []
    _, entry = self._found[tag]
    count = min(entry.count, _MAX_VALUES)
    one = struct.calcsize(self._order + _TYPES[entry.kind])
    data = self._reader.read(entry.values_at, count * one)
    count = len(data) // one
    code = self._order + _TYPES[entry.kind] * count
    values = list(struct.unpack(code, data[: count * one]))
    if entry.kind == _ASCII:
      text = bytes(values).split(b"\0")[0].strip()
      return [int(text)] if text.isdigit() else []
    if entry.kind in _RATIONALS:
      pairs = zip(values[::2], values[1::2], strict=True)
      return [top / bottom for top, bottom in pairs if bottom]
    return values

  def first(self, tag: int, default: int = 0) -> int:
    """Returns the first value of a tag, or the default if there is none."""
    values = self.values(tag)
    # A broken fraction may be infinite or no number.
    return int(values[0]) if values and abs(values[0]) < 2**63 else default

  def orientation(self) -> int:
    """Returns how the image is stored, 1 (upright) to 8."""
    value = self.first(ORIENTATION, 1)
    return value if value in range(1, 9) else 1

  def changed(self, data: bytes, values: Mapping[int, int]) -> bytes:
    """Returns a TIFF in which tags that are there have other values.

    Args:
      data: The TIFF that these tags are of.
      values: The new value by tag.
    """
    code = self._order + ("HHQHHI" if self._is_big else "HHIHH")
    rest = (0, 0) if self._is_big else (0,)
    copy = bytearray(data)
    for tag, value in values.items():
      if tag in self._found:
        at = self._found[tag][0]
        struct.pack_into(code, copy, at, tag, _SHORT, 1, value, *rest)
    return bytes(copy)

  def as_classic(self, data: bytes) -> bytes:
    """Returns a BigTIFF's first page as TIFF; Pillow reads no big-endian ones.

    Args:
      data: The BigTIFF that these tags are of.
    """
    table = len(data) + len(data) % 2
    beyond = table + 2 + 12 * len(self._found) + 4
    entries, extra = [], b""
    for tag, (_, entry) in sorted(self._found.items()):
      kind = _CLASSIC.get(entry.kind, entry.kind)
      one = self._order + _TYPES[entry.kind]
      stored = self._reader.read(
        entry.values_at, entry.count * struct.calcsize(one)
      )
      if kind != entry.kind:
        small = self._order + _TYPES[kind]
        values = struct.iter_unpack(one, stored)
        stored = b"".join(struct.pack(small, *value) for value in values)
      if len(stored) > 4:
        place = beyond + len(extra)
        extra += stored + b"\0" * (len(stored) % 2)
        stored = struct.pack(self._order + "I", place)
      head = struct.pack(self._order + "HHI", tag, kind, entry.count)
      entries.append(head + stored.ljust(4, b"\0"))
    mark = {"<": b"II*\0", ">": b"MM\0*"}[self._order]
    return b"".join(
      (
        *(mark, struct.pack(self._order + "I", table), data[8:]),
        b"\0" * (len(data) % 2),
        struct.pack(self._order + "H", len(entries)),
        *(*entries, bytes(4), extra),
      )
    )


def page_ends(tags: Tags) -> int | None:
  """Returns where the last strip or tile of the first page ends, if known."""
  for offsets, sizes in ((STRIPS, STRIP_BYTES), (TILES, TILE_BYTES)):
    pairs = zip(tags.values(offsets), tags.values(sizes), strict=False)
    if ends := [int(at + size) for at, size in pairs]:
      return max(ends)
  return None


def exif_orientation(exif: bytes) -> int:
  """Returns the orientation that an EXIF block gives, 1 (upright) to 8.

  Args:
    exif: The block, from its byte order on, or from an `Exif` before it.
      Broken EXIF does not mean broken pixels: it counts as upright.
  """
  # One byte after the name is meant to be zero, and is not always.
  return Tags(
    Reader(exif[6:] if exif.startswith(b"Exif\0") else exif)
  ).orientation()
