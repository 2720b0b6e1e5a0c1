import re

import numpy as np
import pytest

from bit_jax import models
from bit_jax.errors import InputError
from bit_jax.models import paths
from bit_jax.weights import layouts, param_shapes
from tests.goldens import seeded_weights


def shapes_of(variant, num_classes=3):
  abstract = param_shapes.abstract_params(variant, num_classes)
  return {path: value.shape for path, value in abstract.items()}


def official_shapes(variant, num_classes=3):
  """Shapes of a released variant, without running its network."""
  depth, width = models.parse_variant(variant)
  shapes = {
    layouts.OFFICIAL.path(key): shape
    for key, shape in seeded_weights.names_and_shapes(
      depth, int(width), num_classes
    )
  }
  return shapes | {"head/kernel": shapes["head/kernel"][2:]}


@pytest.mark.parametrize(
  ("variant", "shapes_of"),
  [
    *((variant, official_shapes) for variant in models.VARIANTS),
    ("R14x0.5", shapes_of),
    ("R26x0.25", shapes_of),
  ],
)
def test_variant_and_classes_show_in_the_shapes(variant, shapes_of):
  assert param_shapes.infer_variant(shapes_of(variant, 7)) == (variant, 7)


@pytest.mark.parametrize(
  ("variant", "shapes_of", "lost"),
  [
    ("R101x1", official_shapes, "block3/unit23"),
    ("R26x1", shapes_of, "unit02"),
  ],
)
def test_variant_shows_in_what_a_damaged_file_still_holds(
  variant, shapes_of, lost
):
  shapes = shapes_of(variant)
  left = {k: v for k, v in shapes.items() if not re.search(lost, k)}
  assert param_shapes.infer_variant(left) == (variant, 3)


@pytest.mark.parametrize("path", ["root_block/conv_root/kernel", "head/kernel"])
def test_no_network_without_root_and_head(path):
  shapes = shapes_of("R14x0.25")
  del shapes[path]
  with pytest.raises(InputError, match=f"^no array {path}: these are not"):
    param_shapes.infer_variant(shapes)


def test_width_that_no_variant_has():
  shapes = shapes_of("R14x0.25") | {"root_block/conv_root/kernel": (3, 3, 3, 7)}
  with pytest.raises(InputError, match="model 'R14x0.109375': 7 channels do"):
    param_shapes.infer_variant(shapes)


def test_all_that_is_wrong_is_named():
  arrays = {
    path: np.zeros(shape, np.float32)
    for path, shape in shapes_of("R14x0.25").items()
  }

  def check(arrays, norm="gn"):
    param_shapes.check_params(
      "x.npz", paths.unflatten(arrays), "R14x0.25", 3, norm
    )

  check(arrays)
  del arrays["head/bias"]
  arrays["head/more"] = np.zeros(3, np.float32)
  arrays["head/kernel"] = arrays["head/kernel"].T
  arrays["norm-pre-head/bias"] = np.zeros(512, np.int32)
  with pytest.raises(InputError) as error:
    check(arrays)
  assert str(error.value) == (
    "x.npz does not hold the weights of R14x0.25 with 3 classes; "
    "missing: head/bias; unexpected: head/more; "
    "wrong shape: head/kernel (3, 512) instead of (512, 3); "
    "wrong dtype: norm-pre-head/bias int32"
  )
  with pytest.raises(InputError, match="missing: block1/unit01/bn1/bias"):
    check(arrays, norm="bn")
