import jax
import numpy as np
import pytest

from bit_jax import models, paths, weights
from bit_jax.errors import InputError
from tests.goldens import seeded_weights


@pytest.fixture(scope="module")
def official():
  return seeded_weights.make(50, 1, 5)


def small_params(num_classes=3, seed=0):
  model = models.create("R14x0.25", num_classes=num_classes)
  init = jax.jit(models.init_params, static_argnums=(0, 2))
  return jax.device_get(init(model, jax.random.key(seed), 32))


def save(path, arrays):
  np.savez(path, **arrays)
  return path


def test_official_file(official, tmp_path):
  loaded = weights.load(save(tmp_path / "BiT.npz", official))
  assert (loaded.variant, loaded.num_classes) == ("R50x1", 5)
  assert loaded.class_names == ()
  flat = paths.flatten(loaded.params)
  assert len(flat) == len(official)
  unit = "resnet/block3/unit02"
  for path, key in {
    "root_block/conv_root/kernel": (
      "resnet/root_block/standardized_conv2d/kernel"
    ),
    "block3/unit02/conv2/kernel": f"{unit}/b/standardized_conv2d/kernel",
    "block3/unit02/gn3/scale": f"{unit}/c/group_norm/gamma",
    "block3/unit02/gn1/bias": f"{unit}/a/group_norm/beta",
    "block1/unit01/conv_proj/kernel": (
      "resnet/block1/unit01/a/proj/standardized_conv2d/kernel"
    ),
    "norm-pre-head/scale": "resnet/group_norm/gamma",
    "head/bias": "resnet/head/conv2d/bias",
  }.items():
    np.testing.assert_array_equal(flat[path], official[key])
  np.testing.assert_array_equal(
    flat["head/kernel"], official["resnet/head/conv2d/kernel"][0, 0]
  )


def test_numbered_layer_names_mean_the_same(official, tmp_path):
  numbered = {
    key.replace("standardized_conv2d", f"standardized_conv2d_{i}"): value
    for i, (key, value) in enumerate(official.items())
  }
  plain = weights.load(save(tmp_path / "a.npz", official))
  loaded = weights.load(save(tmp_path / "b.npz", numbered))
  jax.tree.map(np.testing.assert_array_equal, loaded.params, plain.params)


def test_our_file_round_trips_bit_for_bit_with_what_is_known(tmp_path):
  params = small_params()
  stats = {"block1": {"bn": {"mean": np.arange(4.0)}}}
  preprocess = {"crop": "none", "crop_px": 32, "resize_px": 0, "flip": False}
  names = ("cat", "dög", "a, b")
  saved = weights.Weights(params, stats, "R14x0.25", names, preprocess)
  weights.save_npz(tmp_path / "params.npz", saved)
  with np.load(tmp_path / "params.npz", allow_pickle=False) as npz:
    assert npz["block1/unit01/gn1/scale"].shape == (16,)
  loaded = weights.load(tmp_path / "params.npz")
  assert loaded.variant == "R14x0.25"
  assert loaded.class_names == names
  assert loaded.preprocess == preprocess
  jax.tree.map(np.testing.assert_array_equal, loaded.params, params)
  jax.tree.map(np.testing.assert_array_equal, loaded.batch_stats, stats)
  assert [p.name for p in tmp_path.iterdir()] == ["params.npz"]


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (
      lambda w: w.pop("resnet/block2/unit03/b/group_norm/beta"),
      "R50x1 .* missing: block2/unit03/gn2/bias",
    ),
    (
      lambda w: w.update({"resnet/block9/x": np.zeros(1)}),
      "unexpected arrays resnet/block9/x",
    ),
    (
      lambda w: w.update(
        {"resnet/block3/unit07/a/group_norm/beta": np.ones(9)}
      ),
      "unexpected: block3/unit07/gn1/bias",
    ),
    (
      lambda w: w.update({"resnet/group_norm/gamma": np.ones(7, np.float32)}),
      r"wrong shape: norm-pre-head/scale \(7,\) instead of \(2048,\)",
    ),
    (
      lambda w: w.pop("resnet/head/conv2d/kernel"),
      "no array head/kernel",
    ),
    (
      lambda w: [w.pop(k) for k in list(w) if "block4/unit02" in k],
      "missing: block4/unit02/conv1/kernel, .* and 6 more",
    ),
  ],
)
def test_wrong_and_incomplete_files_are_refused(
  official, tmp_path, change, message
):
  arrays = dict(official)
  change(arrays)
  path = save(tmp_path / "BiT.npz", arrays)
  with pytest.raises(InputError, match=message) as error:
    weights.load(path)
  assert str(path) in str(error.value)


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (None, "no such file"),
    (b"", "not a readable .npz"),
    (b"not a zip file at all", "not a readable .npz"),
  ],
)
def test_unreadable_files(tmp_path, content, message):
  path = tmp_path / "x.npz"
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(InputError, match=message):
    weights.load(path)


def test_truncated_and_flipped_files(tmp_path):
  saved = weights.Weights(small_params(), {}, "R14x0.25")
  path = tmp_path / "params.npz"
  weights.save_npz(path, saved)
  whole = path.read_bytes()
  path.write_bytes(whole[: len(whole) // 2])
  with pytest.raises(InputError, match="not a readable"):
    weights.load(path)
  flipped = bytearray(whole)
  flipped[len(whole) // 2] ^= 1
  path.write_bytes(flipped)
  with pytest.raises(InputError, match="not a readable"):
    weights.load(path)


def test_a_bare_array_and_an_empty_folder(tmp_path):
  np.save(tmp_path / "x.npy", np.zeros(3))
  with pytest.raises(InputError, match="expected .npz"):
    weights.load(tmp_path / "x.npy")
  with pytest.raises(InputError, match="no checkpoint and no params.npz"):
    weights.load(tmp_path)


def test_head_is_reset_or_kept():
  loaded = weights.Weights(small_params(3, seed=1), {}, "R14x0.25")
  loaded.params["head"]["bias"] = np.ones(3, np.float32)
  fresh = small_params(3, seed=2)
  reset = weights.with_head(loaded, fresh, keep=False)
  kept = weights.with_head(loaded, fresh, keep=True)
  np.testing.assert_array_equal(reset["head"]["bias"], 0)
  np.testing.assert_array_equal(kept["head"]["bias"], 1)
  for merged in (reset, kept):
    np.testing.assert_array_equal(
      merged["block4"]["unit01"]["conv2"]["kernel"],
      loaded.params["block4"]["unit01"]["conv2"]["kernel"],
    )
  other_classes = small_params(4)
  assert weights.with_head(loaded, other_classes, keep=False)
  with pytest.raises(InputError, match="3 classes.*head/"):
    weights.with_head(loaded, other_classes, keep=True)


def test_weights_of_another_variant():
  loaded = weights.Weights(small_params(), {}, "R14x0.25")
  shapes = weights.abstract_params("R14x0.5", 3)
  with pytest.raises(InputError, match="R14x0.25 with 3 classes"):
    weights.with_head(loaded, paths.unflatten(shapes), keep=False)


def test_init_params_has_the_distribution_of_flax():
  model = models.create("R14x0.5", num_classes=3, head_bias=-2.0)
  rng = jax.random.key(0)
  init = jax.jit(models.init_params, static_argnums=(0, 2))
  ours = paths.flatten(init(model, rng, 32))
  images = np.zeros((1, 32, 32, 3), np.float32)
  flax = paths.flatten(jax.jit(model.init)(rng, images)["params"])
  assert {k: v.shape for k, v in ours.items()} == {
    k: v.shape for k, v in flax.items()
  }
  for path, value in flax.items():
    if "conv" not in path:
      np.testing.assert_array_equal(ours[path], value)
    elif value.size > 10_000:
      for moment in (np.std, np.max, np.min):
        np.testing.assert_allclose(moment(ours[path]), moment(value), rtol=0.05)
      assert abs(ours[path].mean()) < 4 * value.std() / np.sqrt(value.size)
