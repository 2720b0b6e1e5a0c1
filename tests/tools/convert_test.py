import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy

from bit_jax import models, weights
from bit_jax.models import init
from bit_jax.tools import convert
from bit_jax.weights import layouts


@pytest.fixture(scope="module")
def params():
  model = models.create("R14x0.25", num_classes=3)
  variables = init.init_variables(model, jax.random.key(0))
  return jax.device_get(variables["params"])


@pytest.fixture
def src(params, tmp_path):
  path = tmp_path / "params.npz"
  saved = weights.Weights(
    params, {}, "R14x0.25", ("a", "b", "c"), {"crop": "x"}
  )
  weights.save_npz(path, saved)
  return path


def layout_of(path):
  if path.suffix == ".safetensors":
    return layouts.infer(safetensors.numpy.load_file(path)).name
  with np.load(path) as npz:
    return layouts.infer(npz.files).name


@pytest.mark.parametrize(
  ("dst", "flags", "layout"),
  [
    ("x.npz", [], "official"),
    ("x.safetensors", [], "timm"),
    ("x.npz", ["--layout=big_vision"], "big_vision"),
    ("x.safetensors", ["--layout=hf"], "hf"),
  ],
)
def test_layout_goes_by_suffix_or_flag(src, dst, flags, layout, params, capsys):
  dst = src.with_name(dst)
  assert convert.main([str(src), str(dst), *flags]) == 0
  assert layout_of(dst) == layout
  loaded = weights.load(dst)
  jax.tree.map(np.testing.assert_array_equal, loaded.params, params)
  # The command reports metadata that the layout cannot hold.
  out, err = capsys.readouterr()
  assert out == f"{dst}: R14x0.25, 3 classes, {layout} layout\n"
  assert err == (
    "class names and preprocessing are left out; --layout=bit_jax has both\n"
  )


def test_to_ours_with_labels(src, capsys):
  plain, ours = src.with_name("x.npz"), src.with_name("y.npz")
  labels = src.with_name("labels.txt")
  labels.write_text("Käse \nb, c\nd\n\n", encoding="utf-8")
  assert convert.main([str(src), str(plain)]) == 0
  flags = ["--layout=bit_jax", f"--labels={labels}"]
  assert convert.main([str(plain), str(ours), *flags]) == 0
  assert weights.load(ours).class_names == ("Käse", "b, c", "d")
  assert capsys.readouterr().out.endswith("3 classes, bit_jax layout\n")


def test_ours_keeps_what_is_known(src):
  dst = src.with_name("y.npz")
  assert convert.main([str(src), str(dst), "--layout=bit_jax"]) == 0
  loaded = weights.load(dst)
  assert loaded.class_names == ("a", "b", "c")
  assert loaded.preprocess == {"crop": "x"}


def test_nothing_lost_nothing_said(src, capsys):
  plain = src.with_name("x.npz")
  assert convert.main([str(src), str(plain)]) == 0
  capsys.readouterr()
  assert convert.main([str(plain), str(plain)]) == 0
  assert "left out" not in capsys.readouterr().err


def test_a_file_onto_itself(src, params):
  assert convert.main([str(src), str(src)]) == 0
  loaded = weights.load(src)
  jax.tree.map(np.testing.assert_array_equal, loaded.params, params)


def truncate(path):
  path.write_bytes(path.read_bytes()[:5000])


def damage(path):
  """Flips a bit inside an array, which is noticed only when it is read."""
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


def mix(path):
  with np.load(path) as npz:
    arrays = dict(npz)
  arrays.pop("bit_jax_metadata")
  arrays["norm.weight"] = arrays.pop("norm-pre-head/scale")
  np.savez(path, **arrays)


def widen(path):
  with np.load(path) as npz:
    arrays = dict(npz)
  arrays["root_block/conv_root/kernel"] = np.zeros((3, 3, 3, 32), np.float32)
  np.savez(path, **arrays)


@pytest.mark.parametrize(
  ("change", "dst", "flags", "message"),
  [
    (truncate, "x.npz", [], "params.npz: not a readable .npz file"),
    (damage, "x.npz", [], "params.npz: not a readable .npz file"),
    (damage, "x.safetensors", [], "params.npz: not a readable .npz file"),
    (mix, "x.npz", [], "half converted: most names are of the big_vision"),
    (widen, "x.npz", [], "does not hold the weights of R14x0.5"),
    (lambda p: p.unlink(), "x.npz", [], "params.npz: no such file"),
    (None, "x.h5", [], "x.h5 ends in neither .npz nor .safetensors"),
    (None, "no/x.npz", [], "no/x.npz: cannot be written: No such file"),
    (None, "x.npz", ["--layout=timm"], "is written to .safetensors files"),
    (
      None,
      "x.npz",
      ["--layout=bit_jax", "--labels=LABELS"],
      "holds 2 names, but the head has 3 outputs",
    ),
    (None, "x.npz", ["--labels=LABELS"], "official layout has no place for"),
    (
      None,
      "x.npz",
      ["--layout=bit_jax", "--labels=/no/such"],
      "--labels=/no/such cannot be read",
    ),
  ],
)
def test_bad_input_is_one_line(src, change, dst, flags, message, capsys):
  labels = src.with_name("labels.txt")
  labels.write_text("a\nb\n")
  if change:
    change(src)
  dst = src.parent / dst
  flags = [flag.replace("LABELS", str(labels)) for flag in flags]
  assert convert.main([str(src), str(dst), *flags]) == 1
  out, err = capsys.readouterr()
  assert out == ""
  assert err.startswith("error: ")
  assert err.count("\n") == 1
  assert message in err
  assert sorted(p.name for p in src.parent.iterdir()) in (
    ["labels.txt", "params.npz"],
    ["labels.txt"],
  )


def test_damaged_safetensors_is_one_line(src, capsys):
  path = src.with_name("x.safetensors")
  assert convert.main([str(src), str(path)]) == 0
  truncate(path)
  assert convert.main([str(path), str(src)]) == 1
  assert "x.safetensors: not a readable .safetensors" in capsys.readouterr().err


def test_an_empty_label_is_named(src, capsys):
  labels = src.with_name("labels.txt")
  labels.write_text("a\n\nc\n")
  flags = ["--layout=bit_jax", f"--labels={labels}"]
  assert convert.main([str(src), str(src), *flags]) == 1
  assert "line 2 is empty" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--layout=keras", "--lay=timm"])
def test_unknown_layouts_and_flags_exit_2(src, flag, capsys):
  with pytest.raises(SystemExit) as error:
    convert.main([str(src), "x.npz", flag])
  assert error.value.code == 2
  assert flag.split("=")[1] in capsys.readouterr().err


def test_runs_as_a_module(src):
  dst = src.with_name("x.safetensors")
  command = [sys.executable, "-m", "bit_jax.tools.convert", str(src), str(dst)]
  assert subprocess.run(command, check=False).returncode == 0
  assert layout_of(dst) == "timm"
