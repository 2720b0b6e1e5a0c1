"""Decodes with Pillow what OpenCV gets wrong, or refuses.

Transparent images are laid on white: dropping alpha, as `convert("RGB")` does,
shows the arbitrary colours stored under transparent pixels, and a black drawing
on a transparent ground turns all black.
"""

import io
import logging
import warnings

import numpy as np
from PIL import (
  BmpImagePlugin,
  GifImagePlugin,
  Image,
  ImageFile,
  JpegImagePlugin,
  PngImagePlugin,
  TiffImagePlugin,
  WebPImagePlugin,
)

from bit_jax.data.formats import bmp, tiff
from bit_jax.data.formats.headers import Header
from bit_jax.data.formats.reader import Reader

# These lines on stderr name no file.
logging.getLogger("PIL").setLevel(logging.CRITICAL)
for _category in (UserWarning, Image.DecompressionBombWarning):
  warnings.filterwarnings("ignore", category=_category, module=r"PIL\.")

# The classes, unlike Image.open, have no limit of the size, and no warning of
# it; `limits` has ours.
_PLUGINS: dict[str, type[ImageFile.ImageFile]] = {
  "JPEG": JpegImagePlugin.JpegImageFile,
  "PNG": PngImagePlugin.PngImageFile,
  "WEBP": WebPImagePlugin.WebPImageFile,
  "BMP": BmpImagePlugin.BmpImageFile,
  "GIF": GifImagePlugin.GifImageFile,
  "TIFF": TiffImagePlugin.TiffImageFile,
}
# Values of a TIFF's tags.
_WHITE_IS_ZERO, _BLACK_IS_ZERO = 0, 1
_DEEP, _RAW = 16, 1


def decode(data: bytes, header: Header) -> np.ndarray:
  """Returns uint8[H, W, 3], RGB, as stored: not turned upright.

  Args:
    data: The encoded image; a PNG without text, which Pillow limits.
    header: Its header.

  Raises:
    Exception: Of any type, if the image is truncated or corrupt.
  """
  is_inverted = False
  if header.kind == "BMP":
    found = bmp.header(Reader(data))
    if found and bmp.has_masks(found):
      return np.array(_on_white(Image.fromarray(bmp.read_masked(data, found))))
  elif header.kind == "TIFF":
    data, is_inverted = _prepare_tiff(data)
  with _PLUGINS[header.kind](io.BytesIO(data)) as image:
    if header.jpeg and header.jpeg.reduction > 1:
      image.draft(None, (header.width, header.height))
    first = image.tile[0][1] if header.kind == "GIF" else None
    rgb = _to_rgb(image, is_inverted)
    if first and first != (0, 0, *rgb.size):
      # Viewers show nothing where the first frame does not reach.
      frame = rgb.crop(first)
      rgb = Image.new("RGB", rgb.size, "white")
      rgb.paste(frame, first[:2])
  return np.array(rgb)


def _prepare_tiff(data: bytes) -> tuple[bytes, bool]:
  """Returns a TIFF that all versions of Pillow read alike.

  Returns:
    The TIFF, and True if its grey has to be inverted.

  Raises:
    ValueError: It is cut short. Not all decoders would notice, and libtiff
      would print a line that names no file.
  """
  tags = tiff.Tags(Reader(data))
  end = tiff.page_ends(tags)
  if tags.first(tiff.COMPRESSION, 1) != _RAW and end and end > len(data):
    raise ValueError(f"it ends {end - len(data)} bytes too early")
  # Some versions turn an image and some do not.
  values = {tiff.ORIENTATION: 1}
  is_inverted = (
    tags.first(tiff.PHOTOMETRIC, 1) == _WHITE_IS_ZERO
    and tags.first(tiff.BITS, 1) == _DEEP
  )
  if is_inverted:
    # Read as if black were zero: Pillow would not invert it, or not read it.
    values[tiff.PHOTOMETRIC] = _BLACK_IS_ZERO
  if data.startswith(tiff.BIG_BIG):
    data = tags.as_classic(data)
    tags = tiff.Tags(Reader(data))
  return tags.changed(data, values), is_inverted


def _to_rgb(image: Image.Image, is_inverted: bool) -> Image.Image:
  if image.mode.startswith("I"):
    # `convert` would clip 16-bit grey at 255 instead of scaling it.
    deep = np.asarray(image)
    grey = (deep >> 8).astype(np.uint8)
    if is_inverted:
      grey = 255 - grey
    key = image.info.get("transparency")
    if isinstance(key, int):
      grey[deep == key] = 255
    return Image.fromarray(grey).convert("RGB")
  if image.has_transparency_data:
    return _on_white(image.convert("RGBA"))
  return image.convert("RGB")


def _on_white(layer: Image.Image) -> Image.Image:
  white = Image.new("RGBA", layer.size, "white")
  return Image.alpha_composite(white, layer).convert("RGB")
