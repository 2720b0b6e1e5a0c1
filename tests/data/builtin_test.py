import concurrent.futures
import pickle
import unicodedata

import cv2
import matplotlib
import numpy as np
import pytest
from matplotlib.ft2font import FT2Font
from sklearn.datasets import load_digits

from bit_jax.data import builtin
from bit_jax.errors import InputError

# ruff: noqa: RUF001

# Look-alikes of digits in the scripts of the set.
DIGIT_LOOKALIKES = set(
  "OoQDIilJjSsZzBbGgqΘθΟοΖΒβΙιςσεОоЗзЭэБбЬьВСЅѕІіЈЧчУуг"
  "ƷʒȜȝƧƨƻƼƽƄƅȢȣƆɔǀǃǁıſɩӀӏѲѳӨөՕօՅյՏՇշՋջՉչՎվԿՑցԶզ"
  "იეზვპკნბძცყჩႭႨႩⴝⴞⵔⵕⵙ\u05d5\u05df\u05e1\u05d8\u0627\u0647\u0648"
)


def test_glyphs_has_200_letters_that_are_no_digits():
  source = builtin.glyphs("train")
  letters = [unicodedata.lookup(name) for name in source.class_names]
  assert source.num_classes == len(set(letters)) == 200
  assert {unicodedata.category(c) for c in letters} <= {"Lu", "Ll", "Lo"}
  assert not DIGIT_LOOKALIKES & set(letters)
  assert len({name.split()[0] for name in source.class_names}) == 10
  numeric = [c for c in letters if unicodedata.numeric(c, None) is not None]
  assert not numeric


def test_letters_differ_from_each_other_and_from_digits():
  masks = builtin.letter_masks()
  letters = np.stack([shapes(face) for face in masks])
  alike = np.einsum("fac,fbc->ab", letters, letters) / len(letters)
  np.fill_diagonal(alike, 0)
  assert alike.max() < 0.92

  digits = shapes(printed_digits())
  assert np.einsum("fac,bc->fab", letters, digits).max() < 0.92


def test_every_letter_has_a_glyph_in_sans():
  # A missing glyph would be drawn as a box or, in newer Matplotlib, warn.
  source = builtin.glyphs("test")
  for name in ("DejaVuSans", "DejaVuSans-Bold"):
    charmap = load_font(name).get_charmap()
    for letter in map(unicodedata.lookup, source.class_names):
      assert ord(letter) in charmap


def test_letter_masks_are_centred_and_as_large_as_each_other():
  for mask in builtin.letter_masks().reshape(-1, 48, 48)[::7]:
    x, y, width, height = cv2.boundingRect((mask > 64).astype(np.uint8))
    assert 38 <= max(width, height) <= 41
    assert abs(x + width / 2 - 24) <= 1
    assert abs(y + height / 2 - 24) <= 1


def test_a_glyph_depends_on_split_and_index_only():
  examples = builtin.glyphs("train").examples
  indices = [7, 99_999, 0, 7, 207, 4_000, 7]
  expected = [examples[i]["image"] for i in indices]
  np.testing.assert_array_equal(expected[0], expected[3])
  # Same letter, other drawing: in the next round of letters, in the other split
  assert (expected[0] != expected[4]).any()
  assert (expected[0] != builtin.glyphs("test").examples[7]["image"]).any()

  copy = pickle.loads(pickle.dumps(examples))
  np.testing.assert_array_equal(copy[7]["image"], expected[0])

  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    drawn = list(pool.map(lambda i: examples[i]["image"], indices * 40))
  np.testing.assert_array_equal(drawn, expected * 40)


@pytest.mark.parametrize("make", [builtin.glyphs, builtin.digits])
@pytest.mark.parametrize("split", ["train", "test"])
def test_images_are_bright_symbols_on_a_dark_ground(make, split):
  examples = make(split).examples
  for index in range(0, len(examples), len(examples) // 150):
    image = examples[index]["image"]
    assert image.shape == (32, 32, 3)
    assert image.dtype == np.uint8
    assert (image == image[..., :1]).all()
    grey = image[..., 0]
    assert grey.max() > 170
    assert np.percentile(grey, 10) < 100
    assert np.ptp(grey) > 100
    assert 0.02 < np.mean(grey > grey.max() / 2) < 0.7


def test_half_of_the_glyphs_have_the_resolution_of_digits():
  digits = builtin.digits("train").examples
  assert np.mean([is_coarse(digits[i]["image"]) for i in range(100)]) > 0.95

  glyphs = builtin.glyphs("train").examples
  images = [glyphs[i]["image"] for i in range(600)]
  # Saturation adds edges that no grid has.
  coarse = [is_coarse(image) for image in images if image.max() < 250]
  assert len(coarse) > 200
  assert 0.4 < np.mean(coarse) < 0.6


@pytest.mark.parametrize("make", [builtin.glyphs, builtin.digits])
@pytest.mark.parametrize("split", ["train", "test"])
def test_labels_are_those_of_the_examples(make, split):
  source = make(split)
  labels = source.read_labels()
  assert labels.dtype == np.int64
  assert labels.shape == (len(source),)
  indices = np.random.default_rng(0).integers(0, len(source), 100)
  assert [source.examples[i]["label"] for i in indices] == list(labels[indices])
  assert type(source.examples[0]["label"]) is int
  labels[:] = -1
  assert source.examples[0]["label"] == source.read_labels()[0] >= 0


def test_glyph_classes_are_balanced():
  for split, size in (("train", 100_000), ("test", 4_000)):
    counts = np.bincount(builtin.glyphs(split).read_labels())
    np.testing.assert_array_equal(counts, np.full(200, size // 200))


def test_a_glyph_shows_the_letter_of_its_label():
  # Averaged over drawings, a class is closer to its own mask than to others.
  source = builtin.glyphs("test")
  labels = source.read_labels()
  masks = builtin.letter_masks()
  mean_masks = shapes(
    [cv2.resize(m, (32, 32)) for m in masks.mean(0).astype(np.uint8)]
  )
  drawings = [
    np.mean([source.examples[i]["image"][..., 0] for i in rows], axis=0)
    for rows in (np.flatnonzero(labels == label) for label in range(0, 200, 5))
  ]
  nearest = np.argmax(shapes(drawings) @ mean_masks.T, axis=1)
  assert np.mean(nearest == np.arange(0, 200, 5)) > 0.8


def test_digit_splits_are_disjoint_halves_of_each_class():
  counts, targets = load_digits(return_X_y=True)
  for label in range(10):
    of_class = counts[targets == label]
    for split, expected in (("train", of_class[::2]), ("test", of_class[1::2])):
      source = builtin.digits(split)
      rows = np.flatnonzero(source.read_labels() == label)
      assert len(rows) == len(expected)
      for row, count in list(zip(rows, expected, strict=True))[::10]:
        image = source.examples[row]["image"][..., 0]
        expected_image = cv2.resize(
          np.rint(count.reshape(8, 8) * 255 / 16).astype(np.uint8),
          (32, 32),
          interpolation=cv2.INTER_CUBIC,
        )
        np.testing.assert_array_equal(image, expected_image)


def test_digits_are_scaled_to_the_full_range():
  source = builtin.digits("train")
  assert source.class_names == tuple("0123456789")
  assert len(source) + len(builtin.digits("test")) == 1797
  images = np.stack([source.examples[i]["image"] for i in range(100)])
  assert images.min() == 0
  assert images.max() == 255


def test_reading_a_digit_does_not_hand_out_the_original():
  examples = builtin.digits("train").examples
  examples[0]["image"][:] = 7
  assert (examples[0]["image"] != 7).any()


@pytest.mark.parametrize("make", [builtin.glyphs, builtin.digits])
def test_facts_for_recipes(make):
  train, test = make("train"), make("test")
  for source in (train, test):
    assert source.native_px == 32
    assert source.image_px == (32, 32)
    assert source.flip is False
    assert source.multi_label is False
  assert train.name == f"{make.__name__} train"
  assert train.fingerprint == make("train").fingerprint
  assert train.fingerprint != test.fingerprint
  int(train.fingerprint, 16)


def test_fingerprint_follows_the_version_and_the_digits(monkeypatch):
  glyphs = builtin.glyphs("train").fingerprint
  digits = builtin.digits("train").fingerprint
  table = builtin._read_digits()
  table[0, 0] += 1
  with monkeypatch.context() as patch:
    patch.setattr(builtin, "_read_digits", lambda: table)
    assert builtin.digits("train").fingerprint != digits
  monkeypatch.setattr(builtin, "_VERSION", -1)
  assert builtin.glyphs("train").fingerprint != glyphs
  assert builtin.digits("train").fingerprint != digits


@pytest.mark.parametrize("make", [builtin.glyphs, builtin.digits])
def test_an_unknown_split_is_named_with_those_that_exist(make):
  expected = (
    f"^{make.__name__} has no split 'validation'; expected one of train, test$"
  )
  with pytest.raises(InputError, match=expected):
    make("validation")


@pytest.mark.parametrize("make", [builtin.glyphs, builtin.digits])
def test_reading_past_the_end_raises_index_error(make):
  source = make("test")
  with pytest.raises(IndexError):
    source.examples[len(source)]


def load_font(name):
  font = FT2Font(f"{matplotlib.get_data_path()}/fonts/ttf/{name}.ttf")
  font.set_size(48, 72)
  return font


def printed_digits():
  """Digits in upright and bold Sans and Serif, framed like letter masks."""
  digits = []
  for name in ("Sans", "Sans-Bold", "Serif", "Serif-Bold"):
    font = load_font(f"DejaVu{name}")
    for digit in "0123456789":
      font.set_text(digit)
      font.draw_glyphs_to_bitmap(antialiased=True)
      bitmap = np.asarray(font.get_image())
      x, y, width, height = cv2.boundingRect(bitmap)
      bitmap = bitmap[y : y + height, x : x + width]
      bitmap = cv2.resize(bitmap, (round(width * 40 / height), 40))
      canvas = np.zeros((48, 48), np.uint8)
      left = 24 - bitmap.shape[1] // 2
      canvas[4:44, left : left + bitmap.shape[1]] = bitmap
      digits.append(canvas)
  return digits


def shapes(images):
  """Blurred, centred, normalised images: a product of two is a correlation."""
  rows = [
    cv2.GaussianBlur(np.asarray(image, np.float32), (0, 0), 2).ravel()
    for image in images
  ]
  rows = np.stack(rows) - np.mean(rows, axis=1, keepdims=True)
  return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def is_coarse(image):
  """Whether 8x8 pixels and an interpolation describe an image."""
  grey = image[..., 0]
  small = cv2.resize(grey, (8, 8), interpolation=cv2.INTER_AREA)
  again = cv2.resize(small, (32, 32), interpolation=cv2.INTER_CUBIC)
  return cv2.absdiff(again, grey).max() < 0.23 * np.ptp(grey)
