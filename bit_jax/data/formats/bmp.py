"""Reads the headers of BMP files, and their pixels where masks define colours.

Pillow knows a few of the masks, and shows images whose alpha is zero everywhere
as fully transparent. Windows' own programs write such images, and all viewers
show them opaque.
"""

import dataclasses

import numpy as np

from bit_jax.data.formats.reader import Reader

_RAW, _MASKS, _ALPHA_MASKS = 0, 3, 6
_START = 70


@dataclasses.dataclass(frozen=True)
class Header:
  """The properties of a BMP, from its header.

  Attributes:
    height: Height in pixels.
    width: Width in pixels.
    top_down: The first row is the top one.
    bits: Bits of a pixel.
    compression: 0 for none, 3 and 6 for masks.
    pixels_at: Offset of the pixels.
    masks: Of red, green, blue and alpha.
  """

  height: int
  width: int
  top_down: bool
  bits: int
  compression: int
  pixels_at: int
  masks: tuple[int, int, int, int]

  @property
  def row_bytes(self) -> int:
    """Bytes of a row, without compression."""
    return (self.width * self.bits + 31) // 32 * 4


def header(reader: Reader) -> Header | None:
  """Returns the header, or None if it is broken."""
  start = reader.read(0, _START)

  def number(at: int, size: int = 4, signed: bool = False) -> int:
    return int.from_bytes(start[at : at + size], "little", signed=signed)

  size, pixels_at = number(14), number(10)
  if len(start) < 14 + min(size, 40):
    return None
  if size == 12:
    width, height = number(18, 2), number(20, 2)
    bits, compression = number(24, 2), _RAW
  else:
    width, height = number(18, signed=True), number(22, signed=True)
    bits = number(28, 2)
    compression = number(30) if size >= 40 else _RAW
  if width <= 0 or not height:
    return None
  has_alpha = size >= 56 or compression == _ALPHA_MASKS
  masks = (number(54), number(58), number(62), number(66) if has_alpha else 0)
  return Header(
    abs(height), width, height < 0, bits, compression, pixels_at, masks
  )


def ends(reader: Reader) -> bool:
  """Returns True if all rows are there, as far as their size is known."""
  found = header(reader)
  if not found or found.compression not in (_RAW, _MASKS, _ALPHA_MASKS):
    return reader.tail(2) == b"\0\1"  # The end of run lengths.
  return found.pixels_at + found.height * found.row_bytes <= reader.num_bytes


def has_masks(found: Header) -> bool:
  """Returns True if `read_masked` can read the pixels."""
  return found.compression in (_MASKS, _ALPHA_MASKS) and found.bits in (16, 32)


def read_masked(data: bytes, found: Header) -> np.ndarray:
  """Returns uint8[H, W, 4], RGBA; opaque where there is no alpha at all.

  Args:
    data: The file.
    found: Its header, with masks.

  Raises:
    ValueError: Rows are missing.
  """
  size = found.bits // 8
  stored = np.frombuffer(
    data,
    f"<u{size}",
    found.height * found.row_bytes // size,
    found.pixels_at,
  ).reshape(found.height, -1)[:, : found.width]
  if not found.top_down:
    stored = stored[::-1]
  image = np.empty((found.height, found.width, 4), np.uint8)
  for channel, mask in enumerate(found.masks):
    shift = (mask & -mask).bit_length() - 1 if mask else 0
    top = mask >> shift
    values = (stored & stored.dtype.type(mask & 2**found.bits - 1)) >> shift
    if top not in (0, 255):
      values = values.astype(np.uint64) * 255 // top
    image[..., channel] = values
  if not image[..., 3].any():
    image[..., 3] = 255
  return image
