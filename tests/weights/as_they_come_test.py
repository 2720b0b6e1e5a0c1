"""Weights as other programs leave them: folders, prefixes, counters."""

import json

import numpy as np
import pytest
import safetensors.numpy

from bit_jax import weights
from bit_jax.errors import InputError
from bit_jax.models import paths
from bit_jax.weights import array_files, layouts, param_shapes

VARIANT = "R14x0.0625"


@pytest.fixture(scope="module")
def params():
  rng = np.random.default_rng(0)
  shapes = param_shapes.abstract_params(VARIANT, 3)
  return {k: rng.normal(size=x.shape).astype("f") for k, x in shapes.items()}


@pytest.fixture(scope="module")
def stored(params, tmp_path_factory):
  """Returns {layout: arrays} of the same weights."""
  folder, arrays = tmp_path_factory.mktemp("stored"), {}
  network = weights.Weights(paths.unflatten(params), {}, VARIANT)
  for name in ("timm", "hf", "official"):
    path = folder / f"{name}{layouts.LAYOUTS[name].suffix}"
    weights.save_as(path, network, layouts.LAYOUTS[name])
    with array_files.open_arrays(weights.files.epath.Path(path)) as opened:
      arrays[name] = {key: np.asarray(x) for key, x in opened.items()}
  return arrays


def save(path, arrays):
  path.parent.mkdir(parents=True, exist_ok=True)
  safetensors.numpy.save_file(
    {key: np.array(x, order="C") for key, x in arrays.items()}, path
  )
  return path


def check(loaded, params):
  found = paths.flatten(loaded.params)
  assert found.keys() == params.keys()
  for key, array in params.items():
    np.testing.assert_array_equal(found[key], array)


def prefixed(arrays, prefix):
  return {prefix + key: array for key, array in arrays.items()}


@pytest.mark.parametrize("layout", ["timm", "hf", "official"])
@pytest.mark.parametrize(
  "prefix",
  [
    *("module.", "_orig_mod.", "model.", "state_dict.", "net.backbone."),
    *("model._orig_mod.module.", "target/"),
  ],
)
def test_what_stands_before_every_key(stored, params, layout, prefix, tmp_path):
  arrays = prefixed(stored[layout], prefix)
  check(weights.load(save(tmp_path / "x.safetensors", arrays)), params)


def test_wrappers_inside_a_key(stored, params, tmp_path):
  arrays = {
    key.replace("blocks.0.", "blocks.0._fsdp_wrapped_module._orig_mod."): x
    for key, x in stored["timm"].items()
  }
  check(weights.load(save(tmp_path / "x.safetensors", arrays)), params)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_counters_beside_weights(stored, params, prefix, tmp_path):
  arrays = prefixed(stored["timm"], prefix) | {
    f"{prefix}num_batches_tracked": np.array(3),
    "global_step": np.array([9], np.int32),
    "best": np.array(0.5, np.float32),
    "is_best": np.array(True),
  }
  check(weights.load(save(tmp_path / "x.safetensors", arrays)), params)
  np.savez(tmp_path / "x.npz", **stored["official"], epoch=np.array(3))
  check(weights.load(tmp_path / "x.npz"), params)


def test_several_networks_or_other_arrays_are_refused(stored, tmp_path):
  path, arrays = tmp_path / "x.safetensors", stored["timm"]
  for added, message in (
    (prefixed(arrays, "ema."), "2 networks in it, .* begin with ema., model."),
    ({"loss.weight": np.ones(3)}, "unexpected arrays loss.weight"),
    ({"stem.conv.weight": np.ones(3)}, "with and without 'model.'|unexpected"),
    ({"model.module.norm.bias": np.ones(3)}, "two arrays are both model.norm"),
  ):
    save(path, prefixed(arrays, "model.") | added)
    with pytest.raises(InputError, match=message):
      weights.load(path)


def snapshot(folder, arrays, labels=None):
  save(folder / "model.safetensors", arrays)
  config = {"id2label": {str(i): x for i, x in enumerate(labels or ())}}
  (folder / "config.json").write_text(json.dumps(config))
  return folder


@pytest.mark.parametrize(
  ("labels", "names"),
  [
    (("cat", "dog", "e\u0301"), ("cat", "dog", "\u00e9")),
    (("LABEL_0", "LABEL_1", "LABEL_2"), ()),
    (("cat", "dog"), ()),
    ((), ()),
  ],
)
def test_a_snapshot_folder(stored, params, labels, names, tmp_path):
  loaded = weights.load(snapshot(tmp_path, stored["hf"], labels))
  check(loaded, params)
  assert loaded.class_names == names
  # The file alone means the same as its folder.
  loaded = weights.load(tmp_path / "model.safetensors")
  assert loaded.class_names == names


def test_names_in_a_config_of_timm(stored, tmp_path):
  snapshot(tmp_path, stored["timm"])
  config = {"architecture": "resnetv2_50x1_bit", "label_names": ["a", "b", "c"]}
  (tmp_path / "config.json").write_text(json.dumps(config))
  assert weights.load(tmp_path).class_names == ("a", "b", "c")


def test_a_snapshot_copied_without_what_its_links_lead_to(tmp_path):
  (tmp_path / "config.json").write_text("{}")
  (tmp_path / "model.safetensors").symlink_to("../../blobs/4f2e")
  with pytest.raises(InputError, match="model.safetensors is a link to nothin"):
    weights.load(tmp_path)


def test_a_cache_of_snapshots(stored, params, tmp_path):
  new = tmp_path / "snapshots" / "b1"
  blob = save(tmp_path / "blobs" / "4f2e", stored["hf"])
  new.mkdir(parents=True)
  (new / "model.safetensors").symlink_to(blob)
  for path in (tmp_path, tmp_path / "snapshots", new, blob):
    check(weights.load(path), params)
  (tmp_path / "snapshots" / "a0").mkdir()
  with pytest.raises(InputError, match="expected one snapshot .* a0, b1"):
    weights.load(tmp_path)
  (tmp_path / "refs").mkdir()
  (tmp_path / "refs" / "main").write_text("b1\n")
  check(weights.load(tmp_path), params)


def test_a_file_in_parts(stored, params, tmp_path):
  keys = list(stored["hf"])
  names = [f"model-{i:05}-of-00002.safetensors" for i in (1, 2)]
  places = {key: names[i % 2] for i, key in enumerate(keys)}
  for name in names:
    part = {key: stored["hf"][key] for key in keys if places[key] == name}
    save(tmp_path / name, part)
  index = tmp_path / "model.safetensors.index.json"
  check(weights.load(tmp_path), params)
  index.write_text(json.dumps({"weight_map": places}))
  check(weights.load(tmp_path), params)
  check(weights.load(index), params)
  with pytest.raises(InputError, match="one part of several; give its folder"):
    weights.load(tmp_path / names[0])
  (tmp_path / names[1]).unlink()
  with pytest.raises(InputError, match=f"its files {names[1]} are missing"):
    weights.load(tmp_path)


@pytest.mark.parametrize(
  ("names", "message"),
  [
    (("saved_model.pb",), "it holds a SavedModel of TensorFlow"),
    (("checkpoint", "m.ckpt-1.index"), "it holds a checkpoint of TensorFlow"),
    (("config.json", "pytorch_model.bin"), "PyTorch pickles.*save_file"),
    (("flax_model.msgpack",), "MessagePack"),
    (("a.npz", "b.npz"), "2 weight files in it, a.npz, b.npz; give one"),
    (("notes.txt",), "no checkpoint and no params.npz in there, but notes.txt"),
  ],
)
def test_folders_without_weights(names, message, tmp_path):
  for name in names:
    (tmp_path / name).write_bytes(b"x")
  with pytest.raises(InputError, match=message):
    weights.load(tmp_path)


def test_the_only_file_in_a_folder_is_meant(stored, params, tmp_path):
  save(tmp_path / "bit.safetensors", stored["timm"])
  check(weights.load(tmp_path), params)


def test_the_content_goes_before_the_suffix(stored, params, tmp_path):
  save(tmp_path / "x.npz", stored["timm"])
  check(weights.load(tmp_path / "x.npz"), params)
  np.savez(tmp_path / "y.npz", **stored["official"])
  (tmp_path / "y.npz").rename(tmp_path / "y.safetensors")
  check(weights.load(tmp_path / "y.safetensors"), params)


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    (
      "m.safetensors",
      b"version https://git-lfs.github.com/spec/v1\n",
      "m.safetensors: .*it is a pointer of git-lfs.*; get .* git lfs pull",
    ),
    ("m.npz", b"<html>", "it is a saved web page .*; download the file itself"),
    ("m.npz", b"", "it is empty; download or copy the file again"),
    ("m.ckpt", b"\x80\x04}", "a Python pickle, .*safetensors.torch.save_file"),
    ("m.pth.tar", b"\x80\x02}", "a Python pickle, .*save_file"),
    ("m.bin", b"\x03\xff", "a Python pickle"),
    ("m.ckpt.index", b"\0\1", "a part of a TensorFlow checkpoint"),
    ("m.pb", b"\x0a\xff", "a TensorFlow graph"),
    ("m.onnx", b"\x08\xff", "an ONNX model"),
  ],
)
def test_another_kind_of_file_is_named(name, content, message, tmp_path):
  (tmp_path / name).write_bytes(content)
  with pytest.raises(InputError, match=message):
    weights.load(tmp_path / name)


def test_a_checkpoint_of_tensorflow_has_no_file_of_its_name(tmp_path):
  (tmp_path / "m.ckpt-1.index").touch()
  with pytest.raises(InputError, match="a checkpoint of TensorFlow, which is"):
    weights.load(tmp_path / "m.ckpt-1")
