import cv2
import numpy as np
import pytest

from bit_jax.data import decode, jpeg, preprocess


def rng(seed=0):
  return np.random.default_rng(seed)


def gradient_image(height, width):
  """Returns an image whose red grows to the right, and green downwards."""
  image = np.zeros((height, width, 3), np.uint8)
  image[..., 0] = np.linspace(0, 255, width)[None]
  image[..., 1] = np.linspace(0, 255, height)[:, None]
  return image


def test_resize_is_bilinear_with_half_pixel_centres_and_no_antialiasing():
  row = np.array([0, 100, 200, 40], np.uint8)
  image = np.repeat(row[None, :, None], 3, axis=2)
  # Centres of the two outputs fall halfway between inputs 0, 1 and 2, 3.
  shrunk = preprocess.resize(image, 1, 2)
  np.testing.assert_array_equal(shrunk[0, :, 0], [50, 120])
  # At a quarter, sampling takes the middle two and ignores the outer ones.
  assert preprocess.resize(image, 1, 1)[0, 0, 0] == 150
  same = preprocess.resize(image, 1, 4)
  np.testing.assert_array_equal(same, image)


def test_resize_short_side_keeps_the_ratio():
  assert preprocess.resize_short_side(gradient_image(60, 90), 30).shape == (
    (30, 45, 3)
  )
  assert preprocess.resize_short_side(gradient_image(90, 60), 30).shape == (
    (45, 30, 3)
  )


def test_inception_boxes_have_the_stated_areas_and_ratios():
  generator = rng()
  boxes = np.array(
    [preprocess.inception_box(200, 300, generator) for _ in range(2000)]
  )
  top, left, height, width = boxes.T
  assert (top >= 0).all()
  assert (left >= 0).all()
  assert (top + height <= 200).all()
  assert (left + width <= 300).all()
  area, ratio = height * width / 60000, width / height
  assert 0.045 < area.min() < 0.07
  assert area.max() > 0.8
  # Square-ish boxes of more than 2/3 do not fit: uniform only below that.
  assert abs(np.mean(area[area < 0.5]) - 0.275) < 0.02
  assert ratio.min() > 0.7
  assert ratio.max() < 1.4
  assert abs(np.mean(np.log(ratio[area < 0.4]))) < 0.02
  assert len(set(left)) > 100


def test_inception_takes_the_whole_image_if_no_box_fits():
  assert preprocess.inception_box(1, 5000, rng(), area=(1.0, 1.0)) == (
    (0, 0, 1, 5000)
  )


@pytest.mark.parametrize(
  ("name", "process", "shape"),
  [
    ("upstream", preprocess.upstream_train(), 224),
    ("paper", preprocess.hyperrule_train(448, 384), 384),
    ("code", preprocess.hyperrule_train(512, 480), 480),
    ("small", preprocess.hyperrule_train(160, 128), 128),
    ("test", preprocess.hyperrule_test(384), 384),
    ("central", preprocess.central(), 224),
  ],
)
@pytest.mark.parametrize("size", [(300, 200), (40, 50)])
def test_presets_give_their_size(name, process, shape, size):
  image = process(gradient_image(*size), rng())
  assert image.shape == (shape, shape, 3)
  assert image.dtype == np.uint8


def test_test_presets_are_deterministic_and_ask_for_no_generator():
  image = gradient_image(50, 80)
  whole = preprocess.hyperrule_test(32)(image)
  # The square resize shows the whole image, corner to corner.
  assert whole[0, 0, 0] < 5
  assert whole[-1, -1, 0] > 250
  middle = preprocess.central(40, 32)(image)
  # The central crop cuts (80 * 40 / 50 - 32) / 2 = 16 columns on each side.
  expected = 255 * 16 / 64
  assert middle[0, 0, 0] == pytest.approx(expected, abs=3)


def test_random_crop_reaches_every_position():
  image = gradient_image(5, 5)
  corners = {
    tuple(preprocess.random_crop(image, 3, generator)[0, 0])
    for generator in map(rng, range(200))
  }
  assert len(corners) == 9


def test_flip_happens_half_of_the_time_and_mirrors():
  image = gradient_image(8, 8)
  process = preprocess.Preprocess("none", 8, flip=True)
  results = [process(image, rng(seed)) for seed in range(200)]
  flipped = [np.array_equal(r, image[:, ::-1]) for r in results]
  assert all(
    f or np.array_equal(r, image) for f, r in zip(flipped, results, strict=True)
  )
  assert 70 < sum(flipped) < 130
  process = preprocess.hyperrule_train(8, 8, flip=False)
  assert all(
    np.array_equal(process(image, rng(seed)), image) for seed in range(20)
  )


def test_unknown_crop():
  with pytest.raises(ValueError, match="unknown crop 'five'"):
    preprocess.Preprocess("five", 8)(gradient_image(8, 8))


PROCESSES = [
  preprocess.upstream_train(24),
  preprocess.hyperrule_train(40, 24),
  preprocess.Preprocess("square_central", 24, 30),
  preprocess.central(32, 24),
  preprocess.hyperrule_test(24),
  # Nothing is resized: the result must still not be a view of the image.
  preprocess.Preprocess("none", 48, flip=True),
  preprocess.Preprocess("none", 48),
]


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("kind", [".jpg", ".png"])
def test_an_encoded_image_gives_what_its_pixels_give(process, kind):
  pixels = rng().integers(0, 256, (48, 48, 3)).astype(np.uint8)
  data = cv2.imencode(kind, pixels)[1].tobytes()
  image = decode.decode(data, "x")
  for seed in range(20):
    want = process(image, rng(seed))
    got = process(decode.Encoded(data, "x"), rng(seed))
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("process", PROCESSES)
def test_out_is_filled_and_the_image_is_not_changed(process):
  image = rng().integers(0, 256, (48, 48, 3)).astype(np.uint8)
  before = image.copy()
  # Cached images are read-only.
  image.flags.writeable = False
  px = process.crop_px
  batch = np.zeros((3, px, px, 3), np.uint8)
  for seed in range(4):
    want = process(image, rng(seed))
    assert want.flags.c_contiguous
    assert want.flags.writeable
    assert not np.shares_memory(want, image)
    assert process(image, rng(seed), batch[1]) is not None
    np.testing.assert_array_equal(batch[1], want)
  assert not batch[0].any()
  assert not batch[2].any()
  np.testing.assert_array_equal(image, before)


def test_rows_below_an_inception_crop_are_not_decoded(monkeypatch):
  pixels = rng().integers(0, 256, (64, 64, 3)).astype(np.uint8)
  data = cv2.imencode(".jpg", pixels)[1].tobytes()
  real, rows = jpeg.decode, []

  def spy(*args):
    image = real(*args)
    rows.append(len(image))
    return image

  monkeypatch.setattr(jpeg, "decode", spy)
  process = preprocess.upstream_train(16)
  for seed in range(50):
    process(decode.Encoded(data, "x"), rng(seed))
  assert len(rows) == 50
  assert max(rows) == 64
  assert np.mean(rows) < 60
