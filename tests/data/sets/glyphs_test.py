import concurrent.futures
import pickle
import unicodedata

import cv2
import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font

from bit_jax.data.sets import digits, glyphs

# ruff: noqa: RUF001

# Look-alikes of digits in the scripts of the set.
DIGIT_LOOKALIKES = set(
  "OoQDIilJjSsZzBbGgqΘθΟοΖΒβΙιςσεОоЗзЭэБбЬьВСЅѕІіЈЧчУуг"
  "ƷʒȜȝƧƨƻƼƽƄƅȢȣƆɔǀǃǁıſɩӀӏѲѳӨөՕօՅյՏՇշՋջՉչՎվԿՑցԶզ"
  "იეზვპკნბძცყჩႭႨႩⴝⴞⵔⵕⵙ\u05d5\u05df\u05e1\u05d8\u0627\u0647\u0648"
)


def test_glyphs_has_200_letters_that_are_no_digits():
  source = glyphs.load("train")
  letters = [unicodedata.lookup(name) for name in source.class_names]
  assert source.num_classes == len(set(letters)) == 200
  assert {unicodedata.category(c) for c in letters} <= {"Lu", "Ll", "Lo"}
  assert not DIGIT_LOOKALIKES & set(letters)
  assert len({name.split()[0] for name in source.class_names}) == 10
  numeric = [c for c in letters if unicodedata.numeric(c, None) is not None]
  assert not numeric


def test_letters_differ_from_each_other_and_from_digits():
  masks = glyphs.letter_masks()
  letters = np.stack([shapes(face) for face in masks])
  alike = np.einsum("fac,fbc->ab", letters, letters) / len(letters)
  np.fill_diagonal(alike, 0)
  assert alike.max() < 0.92

  printed = shapes(printed_digits())
  assert np.einsum("fac,bc->fab", letters, printed).max() < 0.92


def test_every_letter_has_a_glyph_in_sans():
  # A missing glyph would be drawn as a box or, in newer Matplotlib, warn.
  source = glyphs.load("test")
  for name in ("DejaVuSans", "DejaVuSans-Bold"):
    charmap = load_font(name).get_charmap()
    for letter in map(unicodedata.lookup, source.class_names):
      assert ord(letter) in charmap


def test_letter_masks_are_centred_and_as_large_as_each_other():
  for mask in glyphs.letter_masks().reshape(-1, 48, 48)[::7]:
    x, y, width, height = cv2.boundingRect((mask > 64).astype(np.uint8))
    assert 38 <= max(width, height) <= 41
    assert abs(x + width / 2 - 24) <= 1
    assert abs(y + height / 2 - 24) <= 1


def test_a_glyph_depends_on_split_and_index_only():
  examples = glyphs.load("train").examples
  indices = [7, 99_999, 0, 7, 207, 4_000, 7]
  expected = [examples[i]["image"] for i in indices]
  np.testing.assert_array_equal(expected[0], expected[3])
  # Same letter, other drawing: in the next round of letters, in the other split
  assert (expected[0] != expected[4]).any()
  assert (expected[0] != glyphs.load("test").examples[7]["image"]).any()

  copy = pickle.loads(pickle.dumps(examples))
  np.testing.assert_array_equal(copy[7]["image"], expected[0])

  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    drawn = list(pool.map(lambda i: examples[i]["image"], indices * 40))
  np.testing.assert_array_equal(drawn, expected * 40)


def test_half_of_the_glyphs_have_the_resolution_of_digits():
  goal = digits.load("train").examples
  assert np.mean([is_coarse(goal[i]["image"]) for i in range(100)]) > 0.95

  drawn = glyphs.load("train").examples
  images = [drawn[i]["image"] for i in range(600)]
  # Saturation adds edges that no grid has.
  coarse = [is_coarse(image) for image in images if image.max() < 250]
  assert len(coarse) > 200
  assert 0.4 < np.mean(coarse) < 0.6


def test_glyph_classes_are_balanced():
  for split, size in (("train", 100_000), ("test", 4_000)):
    counts = np.bincount(glyphs.load(split).read_labels())
    np.testing.assert_array_equal(counts, np.full(200, size // 200))


def test_a_glyph_shows_the_letter_of_its_label():
  # Averaged over drawings, a class is closer to its own mask than to others.
  source = glyphs.load("test")
  labels = source.read_labels()
  masks = glyphs.letter_masks()
  mean_masks = shapes(
    [cv2.resize(m, (32, 32)) for m in masks.mean(0).astype(np.uint8)]
  )
  drawings = [
    np.mean([source.examples[i]["image"][..., 0] for i in rows], axis=0)
    for rows in (np.flatnonzero(labels == label) for label in range(0, 200, 5))
  ]
  nearest = np.argmax(shapes(drawings) @ mean_masks.T, axis=1)
  assert np.mean(nearest == np.arange(0, 200, 5)) > 0.8


def load_font(name):
  font = FT2Font(f"{matplotlib.get_data_path()}/fonts/ttf/{name}.ttf")
  font.set_size(48, 72)
  return font


def printed_digits():
  """Renders digits in upright and bold Sans and Serif, framed like letters."""
  printed = []
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
      printed.append(canvas)
  return printed


def shapes(images):
  """Blurs, centres and normalizes images, so that products are correlations."""
  rows = [
    cv2.GaussianBlur(np.asarray(image, np.float32), (0, 0), 2).ravel()
    for image in images
  ]
  rows = np.stack(rows) - np.mean(rows, axis=1, keepdims=True)
  return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def is_coarse(image):
  """Returns True if an image is 8x8 pixels, enlarged."""
  grey = image[..., 0]
  small = cv2.resize(grey, (8, 8), interpolation=cv2.INTER_AREA)
  again = cv2.resize(small, (32, 32), interpolation=cv2.INTER_CUBIC)
  return cv2.absdiff(again, grey).max() < 0.23 * np.ptp(grey)
