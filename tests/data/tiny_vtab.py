"""Writes small sets with the features TFDS declares for VTAB's sets."""

import functools
import tempfile

import cv2
import numpy as np
import tensorflow_datasets as tfds

from tests.data.tiny_tfds import write_tiny_tfds

# TFDS name[/config] of each set of VTAB -> the splits it has there.
SPLITS = {
  "caltech101": ("train", "test"),
  "cifar100": ("train", "test"),
  "dtd": ("train", "validation", "test"),
  "oxford_flowers102": ("train", "validation", "test"),
  "oxford_iiit_pet": ("train", "test"),
  "sun397/tfds": ("train", "validation", "test"),
  "svhn_cropped": ("train", "test"),
  "patch_camelyon": ("train", "validation", "test"),
  "eurosat/rgb": ("train",),
  "resisc45": ("train",),
  "diabetic_retinopathy_detection/btgraham-300": (
    "train",
    "validation",
    "test",
  ),
  "clevr": ("train", "validation", "test"),
  "dmlab": ("train", "validation", "test"),
  "dsprites": ("train",),
  "smallnorb": ("train", "test"),
  "kitti": ("train", "validation", "test"),
}


def clevr_object(depth=9.0):
  """Returns an object of CLEVR."""
  return {
    "color": "red",
    "material": "metal",
    "shape": "cube",
    "size": "small",
    "rotation": 1.0,
    "3d_coords": [0.0, 0.0, 0.0],
    # A smaller first coordinate, so that only the third one will do.
    "pixel_coords": [1.0, 300.0, depth],
  }


def kitti_object(kind, z):
  """Returns an object of KITTI."""
  return {
    "type": kind,
    "truncated": 0.0,
    "occluded": "unknown",
    "alpha": 0.0,
    "bbox": tfds.features.BBox(0.0, 0.0, 1.0, 1.0),
    "dimensions": [1.0, 1.0, 1.0],
    "location": [-50.0, 500.0, z],
    "rotation_y": 0.0,
  }


_OBJECTS = {
  "clevr": [clevr_object() for _ in range(4)],
  "kitti": [kitti_object("Car", 10.0)],
}


def write_tiny_vtab(data_dir, name, count, examples=None, version=""):
  """Writes `count` examples of a set in each of its splits.

  Args:
    data_dir: the folder for TFDS sets.
    name: of SPLITS.
    examples: (split, index) -> features of an example that matter; the others
      are noise, 0 or empty.
    version: instead of the one TFDS has now.

  Returns:
    The folder of the version.
  """
  features, newest = _declared(name)
  dataset, _, config = name.partition("/")

  def make_example(split, index):
    rng = np.random.default_rng([len(split), index])
    example = {
      key: _objects_or_value(dataset, key, feature, rng)
      for key, feature in features.items()
    }
    return example | (examples(split, index) if examples else {})

  return write_tiny_tfds(
    data_dir,
    dataset,
    num_classes=1,
    per_class=count,
    splits=SPLITS[name],
    config=config,
    version=version or newest,
    features=features,
    make_example=make_example,
  )


@functools.cache
def _declared(name):
  """Returns the features and the version in the TFDS that is installed."""
  with tempfile.TemporaryDirectory() as empty:
    builder = tfds.builder(name, data_dir=empty)
    return dict(builder.info.features.items()), str(builder.version)


def _objects_or_value(dataset, key, feature, rng):
  return _OBJECTS[dataset] if key == "objects" else _value(feature, rng)


def _value(feature, rng):
  match feature:
    case tfds.features.Image():
      # Grey images as dSprites stores them: 0 and 1.
      *size, channels = (side or 24 for side in feature.shape)
      top = 2 if channels == 1 else 256
      return png(rng.integers(0, top, (*size, channels), np.uint8))
    case tfds.features.ClassLabel():
      return int(rng.integers(feature.num_classes))
    case tfds.features.BBoxFeature():
      return tfds.features.BBox(0.0, 0.0, 1.0, 1.0)
    case tfds.features.Text():
      return ""
    case tfds.features.Sequence():
      return []
    case _:
      return np.zeros(feature.shape, feature.np_dtype)


def png(pixels):
  """Encodes uint8[H, W] or uint8[H, W, 1 or 3]."""
  return cv2.imencode(".png", pixels)[1].tobytes()
