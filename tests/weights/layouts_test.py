import pathlib

import numpy as np
import pytest

from bit_jax.errors import InputError
from bit_jax.weights import layouts, param_shapes
from tests.goldens import seeded_weights

TIMM_GOLDEN = (
  pathlib.Path(__file__).parents[1] / "goldens/timm_resnetv2_50x1_bit.npz"
)
UNIT = "block3/unit12"
ALL = pytest.mark.parametrize(
  "layout", layouts.LAYOUTS.values(), ids=layouts.LAYOUTS
)


def written_shapes(layout, variant, num_classes):
  """{key: shape} of a whole network in a layout."""
  params = param_shapes.abstract_params(variant, num_classes)
  return {
    layout.table[path]: layout.view(path).write(np.zeros(leaf.shape)).shape
    for path, leaf in params.items()
  }


@ALL
def test_table_reads_in_both_directions(layout):
  assert len(set(layout.table.values())) == len(layout.table)
  for path, key in layout.table.items():
    assert layout.path(key) == path
  assert f"{UNIT}/conv_proj/kernel" in layout.table


@ALL
@pytest.mark.parametrize(
  ("path", "shape"),
  [
    ("root_block/conv_root/kernel", (2, 3, 4, 5)),
    (f"{UNIT}/conv2/kernel", (2, 3, 4, 5)),
    (f"{UNIT}/gn2/scale", (5,)),
    ("norm-pre-head/bias", (5,)),
    ("head/kernel", (4, 5)),
    ("head/bias", (5,)),
  ],
)
def test_views_are_inverse_and_copy_nothing(layout, path, shape):
  ours = np.arange(np.prod(shape)).reshape(shape)
  view = layout.view(path)
  theirs = view.write(ours)
  assert np.shares_memory(view.read(theirs), ours)
  np.testing.assert_array_equal(view.read(theirs), ours)


@pytest.mark.parametrize(
  "layout", [layouts.TIMM, layouts.HF], ids=["timm", "hf"]
)
def test_order_of_axes_in_pytorch(layout):
  kernel = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
  written = layout.view(f"{UNIT}/conv2/kernel").write(kernel)
  assert written.shape == (5, 4, 2, 3)
  assert written[3, 2, 1, 0] == kernel[1, 0, 2, 3]
  head = np.arange(4 * 5).reshape(4, 5)
  assert layout.view("head/kernel").write(head)[3, 2] == head[2, 3]


@pytest.mark.parametrize(
  ("layout", "path", "shape"),
  [
    (layouts.OFFICIAL, "head/kernel", (2, 1, 4, 5)),
    (layouts.TIMM, "head/kernel", (5, 4, 2, 2)),
    (layouts.TIMM, f"{UNIT}/conv2/kernel", (5, 4)),
    (layouts.HF, "root_block/conv_root/kernel", (5,)),
    (layouts.BIG_VISION, "norm-pre-head/bias", (2, 1, 1, 5)),
  ],
)
def test_views_refuse_other_shapes(layout, path, shape):
  with pytest.raises(ValueError, match="axes|axis|reshape"):
    layout.view(path).read(np.zeros(shape))


@pytest.mark.parametrize(("depth", "width"), [(50, 1), (101, 3), (152, 4)])
def test_official_keys_and_shapes(depth, width):
  expected = dict(seeded_weights.names_and_shapes(depth, width, 5))
  variant = f"R{depth}x{width}"
  assert written_shapes(layouts.OFFICIAL, variant, 5) == expected


def timm_shapes():
  golden = np.load(TIMM_GOLDEN)
  return {
    str(key): tuple(map(int, shape.split(",")))
    for key, shape in zip(golden["keys"], golden["shapes"], strict=True)
  }


def test_timm_keys_and_shapes():
  assert written_shapes(layouts.TIMM, "R50x1", 21) == timm_shapes()


def test_hugging_face_keys_and_shapes():
  # Said again from transformers' convert_bit_to_pytorch.py.
  expected = {}
  for key, shape in timm_shapes().items():
    if key.startswith("head.fc."):
      name = key.replace("head.fc", "classifier.1")
      expected[name] = shape[:2]
    elif key.startswith("stem."):
      expected["bit.embedder.convolution.weight"] = shape
    elif key.startswith("norm."):
      expected[f"bit.{key}"] = shape
    else:
      expected["bit.encoder." + key.replace("blocks", "layers")] = shape
  assert written_shapes(layouts.HF, "R50x1", 21) == expected


def test_big_vision_keys_and_shapes():
  # big_vision/models/bit_paper.py: a norm's scale and bias are [1, 1, 1, C].
  ours = param_shapes.abstract_params("R50x1", 21)
  expected = {
    f"params/{path}": (1, 1, 1, *leaf.shape)
    if path.endswith("/scale")
    or (path.endswith("/bias") and not path.startswith("head/"))
    else leaf.shape
    for path, leaf in ours.items()
  }
  assert written_shapes(layouts.BIG_VISION, "R50x1", 21) == expected


@pytest.mark.parametrize(
  ("layout", "key", "path"),
  [
    (
      layouts.OFFICIAL,
      "resnet/block3/unit12/a/proj/standardized_conv2d_41/kernel",
      f"{UNIT}/conv_proj/kernel",
    ),
    (layouts.OFFICIAL, "resnet/group_norm_7/beta", "norm-pre-head/bias"),
    (layouts.BIG_VISION, f"{UNIT}/gn1/scale", f"{UNIT}/gn1/scale"),
    (layouts.BIG_VISION, "opt/target/head/bias", "head/bias"),
    (layouts.BIG_VISION, "opt/0/trace/head/bias", ""),
    (layouts.HF, "norm.weight", "norm-pre-head/scale"),
    (
      layouts.HF,
      "encoder.stages.2.layers.11.norm1.bias",
      f"{UNIT}/gn1/bias",
    ),
    (layouts.TIMM, "stages.2.blocks.11.conv4.weight", ""),
    (layouts.OFFICIAL, "resnet/block3/unit100/a/group_norm/beta", ""),
    (layouts.OFFICIAL, "resnet/block5/unit01/a/group_norm/beta", ""),
  ],
)
def test_spellings_found_in_files(layout, key, path):
  assert layout.path(key) == path


@ALL
def test_layout_is_inferred_from_keys(layout):
  keys = list(written_shapes(layout, "R50x1", 5))
  # Without metadata of ours a bare tree may be big_vision's.
  expected = "big_vision" if layout is layouts.BIT_JAX else layout.name
  assert layouts.infer(keys).name == expected


def test_bare_hugging_face_model_is_not_timm():
  keys = written_shapes(layouts.HF, "R50x1", 0)
  bare = [k.removeprefix("bit.") for k in keys if k.startswith("bit.")]
  assert "norm.weight" in bare
  assert layouts.infer(bare) is layouts.HF


@pytest.mark.parametrize("keys", [[], ["fc1.weight", "fc1.bias"]])
def test_names_of_no_layout(keys):
  with pytest.raises(InputError, match="not weights of a BiT network"):
    layouts.infer(keys)


def test_mixed_unknown_and_ambiguous_names():
  table = layouts.TIMM.table
  good = [table["head/bias"], table["norm-pre-head/bias"]]
  parse = layouts.parse_keys
  assert list(parse(layouts.TIMM, good)) == ["head/bias", "norm-pre-head/bias"]
  with pytest.raises(
    InputError, match="half converted.*timm.*resnet/group_norm/beta.*official"
  ):
    parse(layouts.TIMM, [*good, "resnet/group_norm/beta"])
  with pytest.raises(InputError, match="unexpected arrays extra/x in .* timm"):
    parse(layouts.TIMM, [*good, "extra/x"])
  with pytest.raises(
    InputError, match="params/head/bias and opt/target/head/bias are both"
  ):
    parse(layouts.BIG_VISION, ["params/head/bias", "opt/target/head/bias"])


def test_training_state_is_no_weights():
  keys = ["params/head/bias", "opt/0/trace/head/bias", "chrono/steps"]
  found = layouts.parse_keys(layouts.BIG_VISION, keys)
  assert found == {"head/bias": "params/head/bias"}
