"""Reads the size of an image as it is decoded, from its header.

The scan of a folder and the decoders both take size and orientation from here.
"""

from typing import NamedTuple

from PIL import GifImagePlugin

from bit_jax.data import jpeg as jpegs
from bit_jax.data.formats import bmp, kinds, png, tiff, webp
from bit_jax.data.formats.reader import Reader
from bit_jax.errors import InputError

_JPEG_BITS = 8
_BITS = (1, 2, 4, 8, 16)
_SAMPLES = {2: "signed", 3: "floating-point", 5: "complex", 6: "complex"}
# Sensor data that is yet to be developed.
_RAW_COLOURS = (32803, 34892)


class Header(NamedTuple):
  """The properties of an image, from its header.

  Attributes:
    kind: JPEG, PNG, WEBP, BMP, GIF or TIFF.
    height: Height in pixels as decoded, before it is turned upright.
    width: Width in pixels as decoded, before it is turned upright.
    orientation: How to turn it, as in EXIF: 1 (it is upright) to 8.
    jpeg: The header of a JPEG.
  """

  kind: str
  height: int
  width: int
  orientation: int = 1
  jpeg: jpegs.Header | None = None

  @property
  def size(self) -> tuple[int, int]:
    """(height, width) of the upright image in pixels."""
    if self.orientation >= 5:
      return self.width, self.height
    return self.height, self.width


def read(reader: Reader, name: str) -> Header:
  """Reads the header of an image.

  Args:
    reader: The image.
    name: Name of the image in error messages.

  Raises:
    InputError: It is of another format, which is named, or its header is
      broken.
  """
  start = reader.read(0, kinds.START)
  kind = kinds.kind_of(start)
  if not kind:
    raise InputError(f"{name}: {kinds.describe(start)}")
  found = _READ[kind](reader, name)
  if found is None:
    raise _broken(kind, name)
  return found


def of_jpeg(found: jpegs.Header, name: str) -> Header:
  """Returns the header of a JPEG.

  Args:
    found: What is stored in it.
    name: Name of the image in error messages.

  Raises:
    InputError: It has other samples than of 8 bits.
  """
  if found.bits != _JPEG_BITS:
    raise InputError(
      f"{name}: a JPEG with samples of {found.bits} bits; expected "
      f"{_JPEG_BITS}: convert it"
    )
  by = found.reduction
  return Header(
    *("JPEG", -(-found.height // by), -(-found.width // by)),
    found.orientation,
    found,
  )


def _jpeg(reader: Reader, name: str) -> Header | None:
  found = jpegs.read_header(reader)
  return of_jpeg(found, name) if found else None


def of_png(start: bytes, name: str, exif: bytes) -> Header:
  """Returns the header of a PNG.

  Args:
    start: Its first bytes.
    name: Name of the image in error messages.
    exif: Its EXIF block, b'' if it has none.

  Raises:
    InputError: The header is broken, or is that of another format.
  """
  if start[12:16] == b"CgBI":
    raise InputError(
      f"{name}: a PNG in the form of iPhone apps (CgBI), which is no PNG for "
      "others: convert it with xcrun pngcrush -revert-iphone-optimizations"
    )
  size = png.size(start)
  if not size:
    raise _broken("PNG", name)
  return Header("PNG", *size, tiff.exif_orientation(exif) if exif else 1)


def _broken(kind: str, name: str) -> InputError:
  return InputError(
    f"{name}: the header of this {kind} is cut short or corrupt"
  )


def _png(reader: Reader, name: str) -> Header:
  return of_png(reader.read(0, png.START), name, png.exif(reader))


def _webp(reader: Reader, name: str) -> Header | None:
  del name
  size = webp.header(reader)
  if not size:
    return None
  return Header("WEBP", *size, tiff.exif_orientation(webp.exif(reader)))


def _bmp(reader: Reader, name: str) -> Header | None:
  del name
  found = bmp.header(reader)
  return Header("BMP", found.height, found.width) if found else None


def _gif(reader: Reader, name: str) -> Header | None:
  del name
  try:
    # The class, unlike Image.open, sets no limit and prints no warning.
    image = GifImagePlugin.GifImageFile(reader.as_file())
  # For broken bytes, Pillow's readers raise nearly any type of error.
  except Exception:
    return None
  width, height = image.size
  return Header("GIF", height, width) if height and width else None


def _tiff(reader: Reader, name: str) -> Header | None:
  tags = tiff.Tags(reader)
  colours = tags.first(tiff.PHOTOMETRIC, 1)
  # Cameras store a thumbnail as the first page.
  is_preview = tags.first(tiff.NEW_SUBFILE_TYPE) & 1 and tiff.SUB_IFDS in tags
  if tiff.DNG_VERSION in tags or is_preview or colours in _RAW_COLOURS:
    raise InputError(
      f"{name}: camera raw file, not a {kinds.READ} image: convert it to "
      "JPEG or PNG"
    )
  height, width = tags.first(tiff.HEIGHT), tags.first(tiff.WIDTH)
  if height <= 0 or width <= 0:
    return None
  bits = {int(b) for b in tags.values(tiff.BITS) or [1]}
  sample = _SAMPLES.get(tags.first(tiff.SAMPLE_FORMAT, 1), "")
  if sample or len(bits) > 1 or not bits.issubset(_BITS):
    depth = " and ".join(map(str, sorted(bits)))
    raise InputError(
      f"{name}: a TIFF with {sample + ' ' if sample else ''}samples of {depth} "
      "bits; expected whole numbers without a sign, of 1, 2, 4, 8 or 16 bits: "
      "convert it"
    )
  return Header("TIFF", height, width, tags.orientation())


_READ = {
  "JPEG": _jpeg,
  "PNG": _png,
  "WEBP": _webp,
  "BMP": _bmp,
  "GIF": _gif,
  "TIFF": _tiff,
}
