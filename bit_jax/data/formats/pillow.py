"""Decodes with Pillow what OpenCV gets wrong, or refuses.

Transparent images are laid on white: dropping alpha, as `convert("RGB")` does,
shows the arbitrary colours stored under transparent pixels, and a black drawing
on a transparent ground turns all black.
"""

import io
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

from bit_jax.data.formats import bmp, png, tiff
from bit_jax.data.formats.headers import Header
from bit_jax.data.formats.reader import Reader

# They name no file.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

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
_WHITE_IS_ZERO = 0


def decode(data: bytes, header: Header) -> np.ndarray:
  """Returns uint8[H, W, 3], RGB, as stored: not turned upright.

  Args:
    data: The encoded image.
    header: Its header.

  Raises:
    Exception: Of any type, if the image is truncated or corrupt.
  """
  tags = None
  if header.kind == "PNG":
    data = png.pixels(data).data
  elif header.kind == "BMP":
    found = bmp.header(Reader(data))
    if found and bmp.has_masks(found):
      layer = Image.fromarray(bmp.read_masked(data, found), "RGBA")
      return np.array(_on_white(layer))
  elif header.kind == "TIFF":
    tags = tiff.Tags(Reader(data))
    data = tags.with_upright(data)
  with _PLUGINS[header.kind](io.BytesIO(data)) as image:
    if header.jpeg and header.jpeg.reduction > 1:
      image.draft(None, (header.width, header.height))
    is_whole = True
    box = (0, 0, *image.size)
    if header.kind == "GIF" and image.tile:
      box = tuple(image.tile[0][1])
      is_whole = box == (0, 0, *image.size)
    rgb = _to_rgb(image, tags)
    if not is_whole:
      # Viewers show nothing where the first frame does not reach.
      frame = rgb.crop(box)
      rgb = Image.new("RGB", rgb.size, "white")
      rgb.paste(frame, box[:2])
  return np.array(rgb)


def _to_rgb(image: Image.Image, tags: tiff.Tags | None) -> Image.Image:
  if image.mode.startswith("I"):
    # `convert` would clip 16-bit grey at 255 instead of scaling it.
    deep = np.asarray(image)
    grey = (deep >> 8).astype(np.uint8)
    if tags and tags.first(tiff.PHOTOMETRIC, 1) == _WHITE_IS_ZERO:
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
