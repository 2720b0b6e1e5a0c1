"""Resizing, cropping and flipping of images, and the recipes' combinations.

Images are NumPy arrays uint8[H, W, 3], RGB, in and out; the device scales them
to [-1, 1]. Where a crop may discard pixels, an encoded image is accepted too,
so that these are not decoded. Resizing is bilinear with half-pixel centres and
without antialiasing, as in the official code, which matters when images shrink
a lot.
"""

import dataclasses
import functools

import cv2
import numpy as np

from bit_jax.data.decode import Encoded

# The pipeline's threads already use all cores; OpenCV's own would compete.
cv2.setNumThreads(0)


def resize(image: np.ndarray, height_px: int, width_px: int) -> np.ndarray:
  """Resizes to height_px x width_px, without keeping the aspect ratio."""
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
  """Returns the central px x px square; the image must be at least as large."""
  top, left = (image.shape[0] - px) // 2, (image.shape[1] - px) // 2
  return image[top : top + px, left : left + px]


def random_crop(
  image: np.ndarray, px: int, rng: np.random.Generator
) -> np.ndarray:
  """Returns a random px x px square; all positions are equally likely."""
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
  """Draws the box of an inception crop (arXiv 1409.4842).

  The area is uniform and the aspect ratio log-uniform; after ten draws that do
  not fit, the box is the whole image. Paper section 3.3: area 5-100 %, ratio
  3/4-4/3.

  Args:
    height: Height of the image in pixels.
    width: Width of the image in pixels.
    rng: Source of the random numbers.
    area: Range of the box's share of the image's area.
    ratio: Range of the box's width / height.

  Returns:
    (top, left, height, width) of the box in pixels.
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
  """Crops, resizes and flips an image to the network's input size.

  Attributes:
    crop: `inception` (random box, resized to crop_px), `random` (resized to a
      square of resize_px, then a random square), `central` (short side resized
      to resize_px, then the central square), `square_central` (resized to a
      square of resize_px, then the central square) or `none` (resized to a
      square of crop_px).
    crop_px: Side of the output in pixels.
    resize_px: Size before cropping in pixels; unused for `inception` and
      `none`.
    flip: True to mirror left-right with probability 1/2.
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
      image: uint8[H, W, 3], RGB, which is not written to; or an encoded image,
        of which only the part that is needed is decoded if its format allows.
      rng: Source of all random choices; may be None if there are none.
      out: Contiguous array for the result; None for a new one.

    Returns:
      `out`, or a new array.

    Raises:
      InputError: An encoded image is truncated or corrupt.
      ValueError: `crop` is not one of those listed above.
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
      # The official JAX and TF2 code flips every image; the paper says random.
      if rng.random() < 0.5 and image.shape == out.shape:
        cv2.flip(image, 1, dst=out)
        return out
    # Raises if the shape is wrong; cv2.flip would leave `out` unwritten.
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
  """Returns the preprocessing of pre-training (paper section 3.3).

  An inception crop, resized to px x px, and a random flip.
  """
  return Preprocess("inception", px, flip=flip)


def hyperrule_train(
  resize_px: int, crop_px: int, *, flip: bool = True
) -> Preprocess:
  """Returns the preprocessing of fine-tuning (paper section 3.3).

  A square resize to resize_px, a random crop to crop_px and a random flip.
  """
  return Preprocess("random", crop_px, resize_px, flip)


def hyperrule_test(crop_px: int) -> Preprocess:
  """Returns fine-tuning's evaluation preprocessing: a square resize."""
  return Preprocess("none", crop_px)


def central(resize_px: int = 256, crop_px: int = 224) -> Preprocess:
  """Returns the usual evaluation preprocessing, a central square crop.

  Args:
    resize_px: Pixels to resize the short side to.
    crop_px: Side of the square.
  """
  return Preprocess("central", crop_px, resize_px)
