"""Tests of derived_labels.py, with sets of the features that TFDS declares."""

import numpy as np
import pytest

from bit_jax.data import datasets, decode, pipeline, preprocess
from bit_jax.data.sets import derived_labels
from bit_jax.errors import InputError
from tests.data.tiny_tfds import write_tiny_tfds
from tests.data.tiny_vtab import (
  clevr_object,
  kitti_object,
  png,
  write_tiny_vtab,
)


def read(tmp_path, name, values, label_key, **kwargs):
  """Writes one example for each dict of values; returns the train split."""
  write_tiny_vtab(tmp_path, name, len(values), lambda _, i: values[i])
  return datasets.load(
    name, "train", data_dir=str(tmp_path), label_key=label_key, **kwargs
  )


@pytest.mark.parametrize(
  ("value", "index"),
  [(-1, -1), (0, -1), (0.1, 0), (1, 0), (1.5, 1), (2, 1), (2.1, 2), (9, 2)],
)
def test_a_bin_is_open_below_and_closed_above(value, index):
  assert derived_labels.bin_index(value, (0.0, 1.0, 2.0)) == index


def test_clevr_count(tmp_path):
  values = [{"objects": [clevr_object()] * n} for n in range(3, 11)]
  source = read(tmp_path, "clevr", values, "clevr_count")
  assert source.read_labels().tolist() == list(range(8))
  assert source.class_names == ("3", "4", "5", "6", "7", "8", "9", "10")
  assert source.examples[0]["label"] == 0


# Depth of the closest object -> class. Edges belong to the bin below.
_CLEVR = {
  0.0: -1,
  0.01: 0,
  8.0: 0,
  8.001: 1,
  8.5: 1,
  8.75: 2,
  9.0: 2,
  9.5: 3,
  9.501: 4,
  10.0: 4,
  10.001: 5,
  100.0: 5,
  100.5: 6,
}


def test_clevr_distance(tmp_path):
  values = [
    {"objects": [clevr_object(200.0), clevr_object(depth), clevr_object(150.0)]}
    for depth in _CLEVR
  ]
  source = read(tmp_path, "clevr", [*values, {"objects": []}], "clevr_distance")
  assert source.read_labels().tolist() == [*_CLEVR.values(), 6]
  assert source.class_names[:2] == ("(0, 8]", "(8, 8.5]")
  assert source.num_classes == 6


# Objects -> class.
_KITTI = [
  ([("Car", 8.0)], 0),
  ([("Car", 8.01)], 1),
  ([("Van", 20.0)], 1),
  ([("Truck", 20.01)], 2),
  ([("Car", 999.0)], 2),
  ([("Car", -100.0)], -1),
  ([("Car", 30.0), ("Van", 15.0), ("Truck", 7.0)], 0),
  ([("Pedestrian", 2.0), ("Car", 30.0), ("Tram", 3.0)], 2),
  ([("Cyclist", 2.0), ("Misc", 2.0), ("Person_sitting", 2.0)], 3),
  ([], 3),
]


def test_kitti_distance(tmp_path):
  values = [
    {"objects": [kitti_object(*item) for item in items]} for items, _ in _KITTI
  ]
  source = read(tmp_path, "kitti", values, "kitti_distance")
  assert source.read_labels().tolist() == [label for _, label in _KITTI]
  assert source.class_names == (
    "(-100, 8]",
    "(8, 20]",
    "(20, 999]",
    "no vehicle",
  )


@pytest.mark.parametrize(
  ("label_key", "feature", "original"),
  [
    ("dsprites_orientation", "label_orientation", 40),
    ("dsprites_xpos", "label_x_position", 32),
  ],
)
def test_dsprites(tmp_path, label_key, feature, original):
  values = [{feature: i} for i in range(original)]
  source = read(tmp_path, "dsprites", values, label_key, image_scale=255)
  want = np.floor(np.arange(original) / (original / 16)).astype(int)
  np.testing.assert_array_equal(source.read_labels(), want)
  assert source.num_classes == len(set(want)) == 16


def test_pixels_stored_as_0_and_1_become_black_and_white(tmp_path):
  pixels = np.zeros((64, 64), np.uint8)
  pixels[3, 5] = 1
  source = read(
    tmp_path,
    "dsprites",
    [{"image": png(pixels), "label_x_position": 31}],
    "dsprites_xpos",
    image_scale=255,
  )
  example = source.examples[0]
  np.testing.assert_array_equal(
    example["image"], np.stack([pixels * 255] * 3, axis=-1)
  )
  assert example["image"].dtype == np.uint8
  assert example["label"] == 15
  assert source.image_px == (64, 64)


def test_scaled_pixels_that_do_not_fit(tmp_path):
  values = [{"image": png(np.full((64, 64), 2, np.uint8))}]
  source = read(tmp_path, "dsprites", values, "dsprites_xpos", image_scale=255)
  with pytest.raises(InputError) as error:
    source.examples[0]
  assert str(error.value) == (
    "dsprites train example 0: a pixel value of 2 times the image_scale 255 is "
    "more than 255"
  )
  with pytest.raises(InputError, match="image_scale=0: expected 1 or more"):
    datasets.load("dsprites", "train", data_dir=str(tmp_path), image_scale=0)


def test_scaling_changes_the_fingerprint(tmp_path):
  plain = read(tmp_path, "dsprites", [{}], "dsprites_xpos")
  scaled = datasets.load(
    "dsprites",
    "train",
    data_dir=str(tmp_path),
    label_key="dsprites_xpos",
    image_scale=255,
  )
  assert plain.fingerprint != scaled.fingerprint


@pytest.mark.parametrize(
  ("label_key", "num_classes"), [("label_azimuth", 18), ("label_elevation", 9)]
)
def test_smallnorb_is_grey_and_has_its_labels(tmp_path, label_key, num_classes):
  pixels = np.arange(96 * 96).reshape(96, 96).astype(np.uint8)
  values = [{"image": png(pixels), label_key: i} for i in range(num_classes)]
  source = read(tmp_path, "smallnorb", values, label_key)
  assert source.read_labels().tolist() == list(range(num_classes))
  assert source.num_classes == num_classes
  image, _ = pipeline._read(source, 0)
  assert isinstance(image, decode.Encoded)
  want = np.stack([pixels] * 3, axis=-1)
  np.testing.assert_array_equal(image.decode(), want)


@pytest.mark.parametrize(
  ("name", "label_key", "value", "message"),
  [
    (
      "clevr",
      "clevr_count",
      {"objects": [clevr_object()] * 2},
      "clevr train example 0: label -1 is outside the 8 classes",
    ),
    (
      "clevr",
      "clevr_distance",
      {"objects": [clevr_object(101.0)]},
      "clevr train example 0: label 6 is outside the 6 classes",
    ),
    # TFDS's mark for "no label".
    (
      "diabetic_retinopathy_detection/btgraham-300",
      "label",
      {"label": -1},
      "diabetic_retinopathy_detection/btgraham-300 train example 0: label -1 "
      "is outside the 5 classes",
    ),
  ],
)
def test_a_label_outside_the_class_list(
  tmp_path, mesh, name, label_key, value, message
):
  source = read(tmp_path, name, [value], label_key)
  with (
    pytest.raises(InputError) as error,
    pipeline.eval_batches(
      source, preprocess.hyperrule_test(8), batch_size=4, mesh=mesh
    ) as batches,
  ):
    next(batches)
  assert str(error.value).startswith(message)


def test_a_derivation_without_its_feature(tmp_path):
  write_tiny_tfds(tmp_path, "tiny")
  with pytest.raises(InputError) as error:
    datasets.load(
      "tiny", "train", data_dir=str(tmp_path), label_key="clevr_count"
    )
  assert str(error.value) == (
    "tiny train: 'clevr_count' follows from a feature 'objects'; the features "
    "are image, label"
  )


def test_a_feature_goes_before_a_derivation(tmp_path, monkeypatch):
  monkeypatch.setitem(
    derived_labels.DERIVED, "label", derived_labels.DERIVED["clevr_count"]
  )
  write_tiny_tfds(tmp_path, "tiny", num_classes=3)
  source = datasets.load("tiny", "train", data_dir=str(tmp_path))
  assert source.class_names == ("0", "1", "2")
