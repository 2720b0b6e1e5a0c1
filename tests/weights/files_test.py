import functools
import pathlib
import pickle
import tracemalloc

import jax
import numpy as np
import pytest
import safetensors.numpy

from bit_jax import models, weights
from bit_jax.errors import InputError
from bit_jax.models import init, paths
from bit_jax.weights import array_files, layouts, releases
from tests.goldens import seeded_weights

GOLDENS = pathlib.Path(__file__).parents[1] / "goldens"
ALL = pytest.mark.parametrize(
  "layout", layouts.LAYOUTS.values(), ids=layouts.LAYOUTS
)


@pytest.fixture(scope="module")
def official():
  return seeded_weights.make(50, 1, 5)


def small_params(num_classes=3, seed=0):
  model = models.create("R14x0.25", num_classes=num_classes)
  variables = init.init_variables(model, jax.random.key(seed))
  return jax.device_get(variables["params"])


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


def assert_same_bits(a, b):
  assert a.keys() == b.keys()
  for key in a:
    assert (a[key].dtype, a[key].shape) == (b[key].dtype, b[key].shape), key
    assert a[key].tobytes() == b[key].tobytes(), key


def read_raw(path):
  if path.suffix == ".safetensors":
    return safetensors.numpy.load_file(path)
  with np.load(path, allow_pickle=False) as npz:
    return dict(npz)


def check_round_trip(arrays, layout, folder):
  """official -> layout -> official, and what is between, bit for bit."""
  first = save(folder / "first.npz", arrays)
  there, back = folder / f"there{layout.suffix}", folder / "back.npz"
  with weights.open_lazily(first) as opened:
    weights.save_as(there, opened, layout)
  with weights.open_lazily(there) as opened:
    weights.save_as(back, opened, layouts.OFFICIAL)
  assert_same_bits(read_raw(back), arrays)
  assert all(value.flags.c_contiguous for value in read_raw(back).values())
  assert_same_bits(
    paths.flatten(weights.load(there).params),
    paths.flatten(weights.load(first).params),
  )


@ALL
def test_every_layout_round_trips_bit_for_bit(official, layout, tmp_path):
  arrays = dict(official)
  # Values that arithmetic or comparison would lose.
  odd = arrays["resnet/group_norm/beta"].copy()
  odd[:4] = [np.nan, -0.0, np.inf, 1e-42]
  odd[:1].view(np.uint32)[:] |= 7  # The payload of a NaN.
  check_round_trip(arrays | {"resnet/group_norm/beta": odd}, layout, tmp_path)


@pytest.mark.slow
@ALL
@pytest.mark.parametrize(("depth", "width"), [(152, 1), (26, 2)])
def test_every_layout_round_trips_deep_and_wide_networks(
  layout, depth, width, tmp_path, monkeypatch
):
  # Depths that were not released are none of the goldens'.
  monkeypatch.setitem(seeded_weights.BLOCKS, 26, (2, 2, 2, 2))
  arrays = seeded_weights.make(depth, width, 5)
  check_round_trip(arrays, layout, tmp_path)
  loaded = weights.load(tmp_path / "back.npz")
  assert loaded.variant == f"R{depth}x{width}"


@ALL
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_every_layout_keeps_the_dtype(layout, dtype, tmp_path):
  params = jax.tree.map(lambda x: x.astype(dtype), small_params())
  path = tmp_path / f"x{layout.suffix}"
  weights.save_as(path, weights.Weights(params, {}, "R14x0.25"), layout)
  copy = tmp_path / f"copy{layout.suffix}"
  with weights.open_lazily(path) as opened:
    weights.save_as(copy, opened, layout)
  assert copy.read_bytes() == path.read_bytes()
  assert_same_bits(
    paths.flatten(weights.load(path).params), paths.flatten(params)
  )


@pytest.fixture(scope="module")
def timm_file(tmp_path_factory):
  """Returns a file of the golden's weights in timm's layout."""
  folder = tmp_path_factory.mktemp("timm")
  first = save(folder / "first.npz", seeded_weights.make(50, 1, 21, 0))
  weights.save_as(folder / "x.safetensors", weights.load(first), layouts.TIMM)
  return folder / "x.safetensors"


def test_timm_file_is_what_timm_has(timm_file):
  golden = np.load(GOLDENS / "timm_resnetv2_50x1_bit.npz")
  arrays = safetensors.numpy.load_file(timm_file)
  assert sorted(arrays) == sorted(golden["keys"])
  for key, shape, total in zip(
    golden["keys"], golden["shapes"], golden["sums"], strict=True
  ):
    assert ",".join(map(str, arrays[key].shape)) == shape
    assert arrays[key].dtype == np.float32
    # A sum in another order.
    np.testing.assert_allclose(
      arrays[key].sum(dtype=np.float64), total, rtol=1e-9, atol=1e-9
    )


def test_timm_file_gives_the_logits_of_timm(timm_file):
  golden = np.load(GOLDENS / "timm_resnetv2_50x1_bit.npz")
  loaded = weights.load(timm_file)
  model = models.create(loaded.variant, num_classes=loaded.num_classes)
  with jax.default_matmul_precision("highest"):
    logits = jax.jit(model.apply)(
      {"params": loaded.params}, seeded_weights.images(2, 96, 96, 0)
    )
  error = np.abs(logits - golden["logits"]).max()
  assert error / np.abs(golden["logits"]).max() < 3e-4


@pytest.mark.parametrize("prefix", ["", "params/", "opt/target/"])
def test_big_vision_checkpoints(prefix, tmp_path):
  params = small_params()
  arrays = {
    prefix + path: value[None, None, None]
    if path.endswith(("scale", "gn1/bias", "gn2/bias", "gn3/bias"))
    or path == "norm-pre-head/bias"
    else value
    for path, value in paths.flatten(params).items()
  }
  if prefix:
    arrays["opt/state/head/bias/momentum"] = np.zeros(3, np.float32)
    arrays["extra/accum_train_time"] = np.zeros((), np.float64)
  loaded = weights.load(save(tmp_path / "checkpoint.npz", arrays))
  jax.tree.map(np.testing.assert_array_equal, loaded.params, params)


def headless(params):
  return {
    **params,
    "head": {
      "kernel": np.zeros((512, 0), np.float32),
      "bias": np.zeros(0, np.float32),
    },
  }


@ALL
def test_network_without_head(layout, tmp_path):
  params = headless(small_params())
  path = tmp_path / f"x{layout.suffix}"
  saved = weights.Weights(params, {}, "R14x0.25")
  if layout is layouts.OFFICIAL:
    with pytest.raises(InputError, match="official layout needs a head"):
      weights.save_as(path, saved, layout)
    return
  weights.save_as(path, saved, layout)
  if layout is not layouts.BIT_JAX:
    assert not {"head/bias", "head/kernel"} & {
      layout.path(key) for key in read_raw(path)
    }
  loaded = weights.load(path)
  assert (loaded.variant, loaded.num_classes) == ("R14x0.25", 0)


def test_half_a_head_is_damage(tmp_path):
  path = tmp_path / "x.safetensors"
  params = small_params()
  weights.save_as(path, weights.Weights(params, {}, "R14x0.25"), layouts.TIMM)
  arrays = safetensors.numpy.load_file(path)
  del arrays["head.fc.weight"]
  safetensors.numpy.save_file(arrays, path)
  with pytest.raises(InputError, match="no array head/kernel"):
    weights.load(path)


def test_base_model_of_hugging_face(tmp_path):
  path = tmp_path / "model.safetensors"
  params = small_params()
  weights.save_as(path, weights.Weights(params, {}, "R14x0.25"), layouts.HF)
  arrays = {
    key.removeprefix("bit."): value
    for key, value in safetensors.numpy.load_file(path).items()
    if key.startswith("bit.")
  }
  safetensors.numpy.save_file(arrays, path)
  loaded = weights.load(path)
  assert loaded.num_classes == 0
  assert_same_bits(
    paths.flatten(loaded.params), paths.flatten(headless(params))
  )


def test_arrays_go_from_file_to_file_one_by_one(official, tmp_path):
  src = save(tmp_path / "a.npz", official)
  total = sum(value.nbytes for value in official.values())
  largest = max(value.nbytes for value in official.values())
  for dst, layout in (
    ("b.safetensors", layouts.TIMM),
    ("c.npz", layouts.OFFICIAL),
  ):
    tracemalloc.start()
    with weights.open_lazily(src) as opened:
      weights.save_as(tmp_path / dst, opened, layout)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * largest < total / 3
    src = tmp_path / dst


@ALL
def test_a_failed_write_leaves_what_was_there(layout, tmp_path):
  path = tmp_path / f"x{layout.suffix}"
  path.write_bytes(b"old")
  params = small_params()

  def fail():
    raise InputError("damaged")

  params["head"]["kernel"] = array_files.LazyArray((512, 3), "float32", fail)
  with pytest.raises(InputError, match="damaged"):
    weights.save_as(path, weights.Weights(params, {}, "R14x0.25"), layout)
  assert path.read_bytes() == b"old"
  assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_what_a_layout_cannot_hold(tmp_path):
  params, stats = small_params(), {"bn": {"mean": np.zeros(2)}}
  saved = weights.Weights(params, stats, "R14x0.25")
  with pytest.raises(InputError, match="timm layout knows no batch_stats"):
    weights.save_as(tmp_path / "x.safetensors", saved, layouts.TIMM)
  with pytest.raises(
    InputError, match=r"x.npz: the timm layout is written to .safetensors"
  ):
    weights.save_as(tmp_path / "x.npz", saved, layouts.TIMM)
  with pytest.raises(InputError, match="x.npz: cannot be written: No such"):
    weights.save_npz(tmp_path / "no" / "x.npz", saved)


def test_release_by_name(official, tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  monkeypatch.setenv("BIT_WEIGHTS_DIR", "~/")
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(releases, "URL", (tmp_path / "bucket").as_uri())
  with pytest.raises(InputError, match="get file:.*/BiT-M-R50x1.npz and put"):
    weights.load("BiT-M-R50x1")
  save(tmp_path / "BiT-M-R50x1.npz", official)
  assert weights.load("BiT-M-R50x1").variant == "R50x1"
  # A path is never taken for a name.
  with pytest.raises(
    InputError, match="BiT-S-R50x1.npz: no such .*a release called BiT-S-R50x1$"
  ):
    weights.load("BiT-S-R50x1.npz")


def test_a_release_of_another_variant(official, tmp_path):
  path = save(tmp_path / "BiT-M-R101x1.npz", official)
  with pytest.raises(
    InputError, match="called after BiT-M-R101x1, but the network is R50x1"
  ):
    weights.load(path)


def test_classes_of_imagenet_come_with_its_releases(official, tmp_path):
  arrays = official | {
    "resnet/head/conv2d/kernel": np.zeros((1, 1, 2048, 1000), np.float32),
    "resnet/head/conv2d/bias": np.zeros(1000, np.float32),
  }
  names = {
    stem: weights.load(save(tmp_path / f"{stem}.npz", arrays)).class_names
    for stem in ("BiT-S-R50x1", "BiT-M-R50x1", "mine")
  }
  assert names["BiT-S-R50x1"] == releases.class_names("BiT-S-R50x1")
  assert names["BiT-M-R50x1"] == names["mine"] == ()
  # Trained further on other classes.
  path = save(tmp_path / "BiT-S-R50x1.npz", official)
  assert weights.load(path).class_names == ()


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
      lambda w: w.update({"stem.conv.weight": np.zeros(1)}),
      "half converted.* official .*stem.conv.weight of the timm layout",
    ),
    (
      lambda w: w.update({"resnet/head/conv2d/bias": np.zeros(5, np.int32)}),
      "wrong dtype: head/bias int32",
    ),
    (
      lambda w: w.update({"resnet/head/conv2d/kernel": np.zeros((2048, 5))}),
      r"head/conv2d/kernel has shape \(2048, 5\), which it has in no file",
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


def test_other_files_are_refused(tmp_path):
  np.savez(tmp_path / "other.npz", x=np.zeros(3))
  with pytest.raises(InputError, match="other.npz: these are not weights of a"):
    weights.load(tmp_path / "other.npz")
  np.savez(tmp_path / "ours.npz", bit_jax_metadata=np.zeros(3, np.uint8))
  with pytest.raises(InputError, match="ours.npz: not a readable .npz"):
    weights.load(tmp_path / "ours.npz")
  (tmp_path / "x.pth").write_bytes(pickle.dumps({"stem": 1}))
  with pytest.raises(InputError, match=r"safetensors.torch.save_file"):
    weights.load(tmp_path / "x.pth")


def test_nothing_there(tmp_path):
  with pytest.raises(InputError, match="x.npz: no such file"):
    weights.load(tmp_path / "x.npz")
  with pytest.raises(InputError, match="no checkpoint and no params.npz"):
    weights.load(tmp_path)


@functools.partial(jax.jit, static_argnums=0)
def apply(network, variables, images):
  return network.apply(variables, images)


def make_network(**options):
  """Returns a model and variables that all differ from their initial values."""
  model = models.create("R14x0.25", num_classes=3, **options)
  rng = np.random.default_rng(0)

  def change(tree):
    return jax.tree.map(
      lambda x: (x + rng.uniform(0, 0.1, x.shape)).astype(x.dtype), tree
    )

  variables = init.init_variables(model, jax.random.key(0))
  params, stats = map(
    change, (variables["params"], variables.get("batch_stats", {}))
  )
  return model, {"params": params, "batch_stats": stats}


@pytest.mark.parametrize(
  "options",
  [
    {},
    {"norm": "bn"},
    {"weight_standardization": False},
    {"norm": "bn", "weight_standardization": False},
  ],
)
def test_a_file_tells_all_that_gives_the_logits(options, tmp_path):
  model, variables = make_network(**options)
  saved = weights.Weights(
    **variables, variant="R14x0.25", model_options=options
  )
  weights.save_as(tmp_path / "x.npz", saved, layouts.BIT_JAX)
  loaded = weights.load(tmp_path / "x.npz")
  assert loaded.model_options == options
  same = models.create(
    loaded.variant, num_classes=loaded.num_classes, **loaded.model_options
  )
  images = seeded_weights.images(2, 32, 32, 0)
  assert_same_bits(
    paths.flatten(loaded.batch_stats), paths.flatten(variables["batch_stats"])
  )
  logits, expected = (
    np.asarray(apply(network, v, images))
    for network, v in (
      (same, {"params": loaded.params, "batch_stats": loaded.batch_stats}),
      (model, variables),
    )
  )
  assert np.abs(logits - expected).max() < 1e-4 * np.abs(expected).max()


def test_norm_shows_in_the_names_where_a_file_does_not_say(tmp_path):
  _, variables = make_network(norm="bn")
  saved = weights.Weights(**variables, variant="R14x0.25")
  weights.save_npz(tmp_path / "x.npz", saved)
  assert weights.load(tmp_path / "x.npz").model_options == {"norm": "bn"}


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"norm": "bn"}, "missing: block1/unit01/bn1/bias"),
    ({"norm": "ln"}, "x.npz: .* has norm='ln', which this version .* not know"),
    ({"activation": "gelu"}, "has activation='gelu', which this version"),
  ],
)
def test_options_that_do_not_fit_the_arrays_or_us(options, message, tmp_path):
  saved = weights.Weights(small_params(), {}, "R14x0.25", model_options=options)
  weights.save_npz(tmp_path / "x.npz", saved)
  with pytest.raises(InputError, match=message):
    weights.load(tmp_path / "x.npz")


@ALL
def test_other_layouts_know_no_options(layout, tmp_path):
  if layout is layouts.BIT_JAX:
    return
  path = tmp_path / f"x{layout.suffix}"
  saved = weights.Weights(
    small_params(),
    {},
    "R14x0.25",
    model_options={"weight_standardization": False},
  )
  with pytest.raises(
    InputError,
    match=f"{layout.name} layout is for .* with weight_standardization=False$",
  ):
    weights.save_as(path, saved, layout)
  assert not path.exists()
  _, variables = make_network(norm="bn")
  saved = weights.Weights(**variables, variant="R14x0.25")
  with pytest.raises(InputError, match=f"{layout.name} layout knows no batch_"):
    weights.save_as(path, saved, layout)
