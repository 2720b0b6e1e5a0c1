import numpy as np
import pytest

from bit_jax.data.sets import builtin, digits, glyphs
from bit_jax.errors import InputError

LOAD = {"glyphs": glyphs.load, "digits": digits.load}
BOTH = pytest.mark.parametrize("name", LOAD)


@BOTH
@pytest.mark.parametrize("split", ["train", "test"])
def test_images_are_bright_symbols_on_a_dark_ground(name, split):
  examples = LOAD[name](split).examples
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


@BOTH
@pytest.mark.parametrize("split", ["train", "test"])
def test_labels_are_those_of_the_examples(name, split):
  source = LOAD[name](split)
  labels = source.read_labels()
  assert labels.dtype == np.int64
  assert labels.shape == (len(source),)
  indices = np.random.default_rng(0).integers(0, len(source), 100)
  assert [source.examples[i]["label"] for i in indices] == list(labels[indices])
  assert type(source.examples[0]["label"]) is int
  labels[:] = -1
  assert source.examples[0]["label"] == source.read_labels()[0] >= 0


@BOTH
def test_facts_for_recipes(name):
  train, test = LOAD[name]("train"), LOAD[name]("test")
  for source in (train, test):
    assert source.native_px == 32
    assert source.image_px == (32, 32)
    assert source.flip is False
    assert source.multi_label is False
  assert train.name == f"{name} train"
  assert train.fingerprint == LOAD[name]("train").fingerprint
  assert train.fingerprint != test.fingerprint
  int(train.fingerprint, 16)


@BOTH
def test_fingerprint_follows_the_version(name, monkeypatch):
  before = LOAD[name]("train").fingerprint
  monkeypatch.setattr(builtin, "_VERSION", -1)
  assert LOAD[name]("train").fingerprint != before


@BOTH
def test_an_unknown_split_is_named_with_those_that_exist(name):
  expected = f"^{name} has no split 'validation'; expected one of train, test$"
  with pytest.raises(InputError, match=expected):
    LOAD[name]("validation")


@BOTH
def test_reading_past_the_end_raises_index_error(name):
  source = LOAD[name]("test")
  with pytest.raises(IndexError):
    source.examples[len(source)]
