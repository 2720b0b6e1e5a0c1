"""Small images and files, made by hand where no library writes them."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 40, 48
_Y, _X = np.mgrid[:HEIGHT, :WIDTH]
RGB = np.stack([_X * 5, _Y * 6, (_X + _Y) * 2], -1).astype(np.uint8)


def encode(image, kind, **options):
  """Returns an encoded image."""
  file = io.BytesIO()
  if isinstance(image, np.ndarray):
    image = Image.fromarray(image)
  image.save(file, kind, **options)
  return file.getvalue()


def pillow(data):
  """Returns what Pillow decodes, as RGB."""
  return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def exif(value, kind=3, order=">", count=1, tags=()):
  """Returns an EXIF block with an orientation of any type."""
  mark = b"MM\0*" if order == ">" else b"II*\0"
  entries = [*tags, struct.pack(order + "HHI", 0x112, kind, count) + value]
  head = mark + struct.pack(order + "I", 8)
  table = struct.pack(order + "H", len(entries)) + b"".join(entries)
  return head + table + bytes(4)


def jpeg_with(segments, data=None):
  """Returns a JPEG with segments (marker, bytes) right before its first scan.

  So they stand behind everything that an encoder writes.
  """
  data = data or encode(RGB, "JPEG", quality=95)
  scan = data.index(b"\xff\xda")
  made = b"".join(
    bytes([0xFF, kind]) + struct.pack(">H", len(body) + 2) + body
    for kind, body in segments
  )
  return data[:scan] + made + data[scan:]


def chunk(kind, data):
  """Returns a chunk of a PNG."""
  crc = zlib.crc32(kind + data)
  return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)


def png_with(early=b"", late=b"", data=None):
  """Returns a PNG with chunks before and after its pixels."""
  data = data or encode(RGB, "PNG")
  first, end = data.index(b"IDAT") - 4, data.index(b"IEND") - 4
  return data[:first] + early + data[first:end] + late + data[end:]


def webp_exif(block):
  """Returns a lossless WebP with an EXIF block."""
  return encode(RGB, "WEBP", lossless=True, exif=block)


def bmp(pixels, masks, header=108, top_down=False, bits=32):
  """Returns a BMP with masks for red, green, blue and alpha."""
  pixels = np.asarray(pixels, f"<u{bits // 8}")
  height, width = pixels.shape
  if not top_down:
    pixels = pixels[::-1]
  rows = b"".join(
    row.tobytes() + bytes(-len(row.tobytes()) % 4) for row in pixels
  )
  body = struct.pack(
    "<IiiHHIIiiII",
    header,
    width,
    -height if top_down else height,
    1,
    bits,
    3,
    *(len(rows), 0, 0, 0, 0),
  )
  body += b"".join(struct.pack("<I", mask) for mask in masks)
  body = body.ljust(header, b"\0") if header > 40 else body[:52]
  at = 14 + len(body)
  return b"BM" + struct.pack("<IHHI", at + len(rows), 0, 0, at) + body + rows


def tiff(tags, strip, order="<", big=False):
  """Returns a TIFF of one strip.

  Args:
    tags: {tag: (type, [values])}; of the strip, place and size are added.
    strip: The bytes of the strip.
    order: < or >.
    big: BigTIFF.
  """
  codes = {1: "B", 3: "H", 4: "I", 16: "Q"}
  mark = b"II" if order == "<" else b"MM"
  offset, inline = ("Q", 8) if big else ("I", 4)
  tags = {**tags, 273: (4, [0]), 279: (4, [len(strip)])}
  start = 16 if big else 8
  entry_bytes, table = (20, 8) if big else (12, 2)
  beyond = start + table + entry_bytes * len(tags) + inline
  extra, entries = b"", []
  sizes = {
    tag: struct.calcsize(codes[kind]) * len(values)
    for tag, (kind, values) in tags.items()
  }
  place = beyond + sum(size for size in sizes.values() if size > inline)
  tags[273] = (4, [place])
  for tag in sorted(tags):
    kind, values = tags[tag]
    packed = struct.pack(order + codes[kind] * len(values), *values)
    if len(packed) > inline:
      extra += packed
      packed = struct.pack(order + offset, beyond + len(extra) - len(packed))
    head = struct.pack(order + "HH" + offset, tag, kind, len(values))
    entries.append(head + packed.ljust(inline, b"\0"))
  head = mark + (
    struct.pack(order + "HHHQ", 43, 8, 0, 16)
    if big
    else struct.pack(order + "HI", 42, 8)
  )
  count = struct.pack(order + ("Q" if big else "H"), len(tags))
  return head + count + b"".join(entries) + bytes(inline) + extra + strip


def grey_tiff(pixels, order="<", big=False, bits=8, **more):
  """Returns a TIFF of grey pixels; `more` are further tags, as t123=(..)."""
  pixels = np.asarray(pixels)
  tags = {
    256: (4, [pixels.shape[1]]),
    257: (4, [pixels.shape[0]]),
    258: (3, [bits]),
    259: (3, [1]),
    262: (3, [1]),
    277: (3, [1]),
    278: (4, [pixels.shape[0]]),
  }
  tags |= {int(key[1:]): value for key, value in more.items()}
  kind = {8: "u1", 16: "u2", 32: "u4"}[bits]
  return tiff(tags, pixels.astype(order + kind).tobytes(), order, big)
