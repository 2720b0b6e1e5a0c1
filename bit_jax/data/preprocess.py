"""Pure image functions on NumPy arrays, and the named ways to combine them.

Images are uint8[H, W, 3] RGB in and out; the device scales them to [-1, 1]. An
encoded image may go in instead, so that what a crop throws away is not decoded.
Resizing is bilinear with half-pixel centres and without antialiasing, as in the
official code, which matters when images shrink a lot.
"""

import dataclasses
import functools

import cv2
import numpy as np

from bit_jax.data.decode import Encoded

# Threads come from Grain; OpenCV's own would fight with them for the cores.
cv2.setNumThreads(0)


def resize(image: np.ndarray, height_px: int, width_px: int) -> np.ndarray:
  """Resizes without keeping the aspect ratio."""
  if image.shape[:2] == (height_px, width_px):
    return image
  return cv2.resize(
    image, (width_px, height_px), interpolation=cv2.INTER_LINEAR
  )


def resize_short_side(image: np.ndarray, px: int) -> np.ndarray:
  """Resizes so that the short side has px pixels, keeping the aspect ratio."""
  height, width = image.shape[:2]
  scale = px / min(height, width)
  return resize(
    image, max(px, round(height * scale)), max(px, round(width * scale))
  )


def central_crop(image: np.ndarray, px: int) -> np.ndarray:
  """Cuts the central px x px square out."""
  top, left = (image.shape[0] - px) // 2, (image.shape[1] - px) // 2
  return image[top : top + px, left : left + px]


def random_crop(
  image: np.ndarray, px: int, rng: np.random.Generator
) -> np.ndarray:
  """Cuts a px x px square out, each position equally likely."""
  top = rng.integers(image.shape[0] - px + 1)
  left = rng.integers(image.shape[1] - px + 1)
  return image[top : top + px, left : left + px]


def inception_box(
  height: int,
  width: int,
  rng: np.random.Generator,
  *,
  area: tuple[float, float] = (0.05, 1.0),
  ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> tuple[int, int, int, int]:
  """Draws (top, left, height, width) of an inception crop (1409.4842).

  Area is uniform, aspect ratio log-uniform; after ten draws that do not fit,
  the whole image is taken. Paper section 3.3: area 5-100 %, ratio 3/4-4/3.
  """
  for _ in range(10):
    target = height * width * rng.uniform(*area)
    aspect = np.exp(rng.uniform(np.log(ratio[0]), np.log(ratio[1])))
    w, h = round(np.sqrt(target * aspect)), round(np.sqrt(target / aspect))
    if 0 < w <= width and 0 < h <= height:
      top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
      return int(top), int(left), h, w
  return 0, 0, height, width


@dataclasses.dataclass(frozen=True)
class Preprocess:
  """A way from a decoded image to the network's input size.

  Attributes:
    crop: `inception` (random box, resized to the output), `random` (square
      resize to resize_px, then a random square), `central` (short side to
      resize_px, then the central square), `square_central` (square resize to
      resize_px, then the central square) or `none` (square resize to crop_px).
    crop_px: side of the output.
    resize_px: see crop; unused for `inception` and `none`.
    flip: mirror left-right with probability 1/2.
  """

  crop: str
  crop_px: int
  resize_px: int = 0
  flip: bool = False

  def __call__(
    self,
    image: np.ndarray | Encoded,
    rng: np.random.Generator | None = None,
    out: np.ndarray | None = None,
  ) -> np.ndarray:
    """Maps an image of any size to uint8[crop_px, crop_px, 3].

    Args:
      image: RGB, uint8[H, W, 3], not written to; or encoded, of which no more
        is decoded than this way needs, where its format allows that.
      rng: source of all random choices; unused by deterministic ways.
      out: where the result goes, contiguous; None for a new array.

    Returns:
      `out`, or a new array.

    Raises:
      InputError: an encoded image is truncated or corrupt.
      ValueError: `crop` is not one of those above.
    """
    px = self.crop_px
    if out is None:
      out = np.empty((px, px, 3), np.uint8)
    if self.crop == "inception":
      image = resize(self._inception_crop(image, rng), px, px)
    else:
      if isinstance(image, Encoded):
        image = image.decode()
      image = self._square(image, rng)
    if self.flip:
      assert rng is not None
      # Official JAX/TF2 code flips always; the paper's text says at random.
      if rng.random() < 0.5 and image.shape == out.shape:
        cv2.flip(image, 1, dst=out)  # Of other shapes, copyto complains.
        return out
    np.copyto(out, image)
    return out

  def _inception_crop(
    self, image: np.ndarray | Encoded, rng: np.random.Generator | None
  ) -> np.ndarray:
    assert rng is not None
    choose = functools.partial(inception_box, rng=rng)
    if isinstance(image, Encoded):
      return image.crop(choose)
    top, left, height, width = choose(image.shape[0], image.shape[1])
    return image[top : top + height, left : left + width]

  def _square(
    self, image: np.ndarray, rng: np.random.Generator | None
  ) -> np.ndarray:
    px = self.crop_px
    if self.crop == "random":
      assert rng is not None
      square = resize(image, self.resize_px, self.resize_px)
      return random_crop(square, px, rng)
    if self.crop == "central":
      return central_crop(resize_short_side(image, self.resize_px), px)
    if self.crop == "square_central":
      square = resize(image, self.resize_px, self.resize_px)
      return central_crop(square, px)
    if self.crop == "none":
      return resize(image, px, px)
    raise ValueError(f"unknown crop {self.crop!r}")


def upstream_train(px: int = 224, *, flip: bool = True) -> Preprocess:
  """Pre-training (paper section 3.3): inception crop to px, random flip."""
  return Preprocess("inception", px, flip=flip)


def hyperrule_train(
  resize_px: int, crop_px: int, *, flip: bool = True
) -> Preprocess:
  """Fine-tuning (paper section 3.3): square resize, random crop and flip."""
  return Preprocess("random", crop_px, resize_px, flip)


def hyperrule_test(crop_px: int) -> Preprocess:
  """Fine-tuning's evaluation: square resize straight to the crop size."""
  return Preprocess("none", crop_px)


def central(resize_px: int = 256, crop_px: int = 224) -> Preprocess:
  """The usual evaluation crop: short side to resize_px, central square."""
  return Preprocess("central", crop_px, resize_px)
