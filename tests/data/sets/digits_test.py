import cv2
import numpy as np
from sklearn.datasets import load_digits

from bit_jax.data.sets import digits


def test_digit_splits_are_disjoint_halves_of_each_class():
  counts, targets = load_digits(return_X_y=True)
  for label in range(10):
    of_class = counts[targets == label]
    for split, expected in (("train", of_class[::2]), ("test", of_class[1::2])):
      source = digits.load(split)
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
  source = digits.load("train")
  assert source.class_names == tuple("0123456789")
  assert len(source) + len(digits.load("test")) == 1797
  images = np.stack([source.examples[i]["image"] for i in range(100)])
  assert images.min() == 0
  assert images.max() == 255


def test_reading_a_digit_does_not_hand_out_the_original():
  examples = digits.load("train").examples
  examples[0]["image"][:] = 7
  assert (examples[0]["image"] != 7).any()


def test_fingerprint_follows_the_counts(monkeypatch):
  before = digits.load("train").fingerprint
  table = digits._read_digits()
  table[0, 0] += 1
  monkeypatch.setattr(digits, "_read_digits", lambda: table)
  assert digits.load("train").fingerprint != before
