"""Checks from a file's first and last bytes that it ends as it should."""

from bit_jax.data import jpeg
from bit_jax.data.formats import bmp, png, tiff, webp
from bit_jax.data.formats.headers import Header
from bit_jax.data.formats.reader import Reader


def is_complete(reader: Reader, header: Header) -> bool:
  """Returns True if a file ends as its format should.

  False is no verdict: data after the end may hide it, so that only decoding
  tells. Damage in the middle is not seen here.

  Args:
    reader: The image.
    header: Its header.
  """
  if header.jpeg:
    return jpeg.ends(reader, header.jpeg)
  if header.kind == "PNG":
    return png.END in reader.tail(png.TAIL)
  if header.kind == "WEBP":
    return webp.ends(reader)
  if header.kind == "BMP":
    return bmp.ends(reader)
  if header.kind == "GIF":
    return reader.tail(2) == b"\0;"
  end = tiff.page_ends(tiff.Tags(reader))
  return end is not None and end <= reader.num_bytes
