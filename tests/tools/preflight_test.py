import importlib.util
import json
import pathlib
from unittest import mock

import pytest

from bit_jax.data.source import DatasetInfo
from bit_jax.errors import InputError
from bit_jax.preflight import aot
from bit_jax.tools import preflight
from tests import fakes

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SMALL = "configs/upstream.py:preset=bit_s,model=R14x0.25"
INFO = ("--num_examples=1000", "--num_classes=10", "--image_px=32")
MIB = 2**20
PARAMS_BYTES = 4 * 507_674
IMAGE_BYTES = 32 * 32 * 3 + 8  # With label and index.


@pytest.fixture(autouse=True)
def at_root(monkeypatch, tmp_path):
  """Changes to the root, where configs/ is, without any data sets."""
  monkeypatch.chdir(ROOT)
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))


def run(*args):
  return preflight.main(
    [f"--config={SMALL}", "--config.input.batch_size=16", *args]
  )


# The command.


@pytest.fixture(scope="module")
def cost():
  """A plausible cost of a step."""
  return aot.StepCost(
    argument_bytes=5 * MIB,
    temp_bytes=60 * MIB,
    code_bytes=MIB,
    output_bytes=1000,
    flops=1.5e12,
    bytes_accessed=2.5e9,
  )


def test_json_has_the_numbers(capsys, cost):
  with mock.patch.object(aot, "compile_step", return_value=cost):
    assert run(*INFO, "--hbm_gib=1", "--json") == 0
  found = json.loads(capsys.readouterr().out)
  expected = {
    "variant": "R14x0.25",
    "dtype": "float32",
    "topology": "",
    "device_kind": "cpu",
    "num_devices": 4,
    "num_examples": 1000,
    "num_classes": 10,
    "facts": "given",
    "crop_px": 32,
    "batch_size": 16,
    "examples_per_device": 4,
    "accum_steps": 1,
    "shard_state": False,
    "steps_per_epoch": 62.5,
    "total_steps": 5625,
    "argument_bytes": cost.argument_bytes,
    "temp_bytes": cost.temp_bytes,
    "flops": cost.flops,
    "bytes_accessed": cost.bytes_accessed,
    "usable_bytes": 2**30,
    "waiting_bytes": 3 * 4 * IMAGE_BYTES,
    "fits": True,
    "tried": [],
    "suggestion": None,
  }
  assert {key: found[key] for key in expected} == expected
  total = cost.total_bytes + expected["waiting_bytes"]
  assert found["total_bytes"] == total
  assert found["free_bytes"] == 2**30 - total


def test_the_network_is_that_of_the_weights(capsys, cost):
  small = ("--config=configs/upstream.py", "--config.input.batch_size=16")
  with mock.patch.object(aot, "compile_step", return_value=cost):
    for name in ("BiT-M-R50x3", "/elsewhere.npz"):
      weights = (f"--config.init.checkpoint={name}", *INFO, "--hbm_gib=1")
      code = preflight.main([*small, *weights, "--json"])
      out = capsys.readouterr()
      if name.startswith("BiT"):
        assert json.loads(out.out)["variant"] == "R50x3"
      else:
        assert (code, out.err.count("\n")) == (1, 1)
        assert "weights /elsewhere.npz: no such file" in out.err
    # Weights of another machine need not be here.
    named = f"--config={SMALL}"
    assert preflight.main([named, small[1], *weights, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["variant"] == "R14x0.25"


def test_text_has_the_numbers(capsys):
  cost = aot.StepCost(
    argument_bytes=2 * aot.GIB,
    temp_bytes=3 * aot.GIB,
    code_bytes=aot.GIB // 2,
    output_bytes=aot.GIB // 4,
    flops=1.5e12,
    bytes_accessed=2.5e9,
    estimated_secs=0.0125,
    compile_secs=12.34,
  )
  with mock.patch.object(aot, "compile_step", return_value=cost):
    assert run("--hbm_gib=8") == 0
  out = capsys.readouterr().out
  for part in (
    "R14x0.25, float32, on 4 x cpu; the state is replicated",
    "imagenet2012, 1,281,167 examples, 1,000 classes (assumed",
    "16 images of 224 px, 4 a device; 80,072.9 steps an epoch, 7,206,564 in",
    "2.00 GiB arguments + 3.00 temporaries + 0.50 code + 0.25 other outputs + "
    "0.00 for batches that wait = 5.75 GiB of 8.00; free: 2.25",
    "1.5e+12 FLOPs, 2.5e+09 bytes of memory traffic",
    "not measured: 12.5 ms",
    "compiled in 12.3 s by jaxlib",
    "the update step fits",
  ):
    assert part in out


def test_memory_that_is_unknown_is_not_judged(capsys, cost):
  with (
    mock.patch.object(aot, "compile_step", return_value=cost),
    mock.patch.object(aot, "usable_bytes", return_value=0),
  ):
    assert run(*INFO) == 0
    out = capsys.readouterr().out
    assert "give it with --hbm_gib=" in out
    assert "fits" not in out
    assert run(*INFO, "--json") == 0
  assert json.loads(capsys.readouterr().out)["fits"] is None


@pytest.mark.parametrize(
  ("args", "code", "message"),
  [
    (("--config.optm.lr=1",), 2, "optm"),
    (("--config.optim.lr=high",), 2, "high"),
    (("--num_example=3",), 2, "num_example"),
    (("extra",), 2, "extra"),
    (("--config.input.batch_size=6",), 1, "number of devices, 4"),
    (("--config.loss=l2",), 1, "config.loss='l2'"),
    (("--config.data.name=no_such_set",), 1, "num_examples"),
    (("--config.resolved.crop_px=3", *INFO), 2, "config.resolved"),
  ],
)
def test_bad_input_ends_in_one_line(args, code, message, capsys):
  assert run(*args) == code
  error = capsys.readouterr().err
  assert message in error
  assert error.count("\n") == 1


@pytest.mark.parametrize(
  "arg",
  [
    *("--image_px=32x", "--image_px=0", "--num_examples=0"),
    *("--num_classes=2.5", "--hbm_gib=-1", "--hbm_gib=nan"),
  ],
)
def test_bad_flags_are_named(arg, capsys):
  with pytest.raises(SystemExit) as e:
    run(arg)
  assert e.value.code == 2
  assert f"argument {arg.split('=')[0]}: expected" in capsys.readouterr().err


# The config.


def test_overrides_come_in_any_order(cost):
  seen = []

  def compiler(config, mesh):
    seen.append(config)
    return cost

  with mock.patch.object(aot, "compile_step", compiler):
    code = preflight.main(
      [
        *("--config.input.batch_size=8", "--workdir=/nowhere", *INFO),
        *(f"--config={SMALL}", "--config.optim.accum_steps", "2"),
      ]
    )
  assert code == 0
  assert (seen[0].input.batch_size, seen[0].optim.accum_steps) == (8, 2)


# The data.


@pytest.mark.parametrize(
  ("name", "info"),
  [
    ("imagenet2012", DatasetInfo(1_281_167, 1000, (375, 500))),
    ("imagenet2012:5.*.*", DatasetInfo(1_281_167, 1000, (375, 500))),
    ("imagenet21k", DatasetInfo(14_197_122, 21_843, (375, 500))),
    ("jft300m", DatasetInfo(300_000_000, 18_291, (375, 500))),
    ("cifar100", DatasetInfo(50_000, 100, (32, 32))),
  ],
)
def test_sets_that_are_not_there(name, info):
  found, origin = preflight.find_info(
    fakes.upstream_config(data__name=name), {}
  )
  assert found == info
  assert "assumed" in origin


def test_a_set_that_is_there_is_read(tmp_path):
  config = fakes.upstream_config(
    data__name="digits",
    data__examples_per_class=5,
    data__subset_file=str(tmp_path / "subset.json"),
  )
  found, origin = preflight.find_info(config, {})
  assert (found.num_examples, found.num_classes) == (50, 10)
  assert found.native_px == 32
  assert origin == "read from the data set"
  assert not any(tmp_path.iterdir())
  found, origin = preflight.find_info(config, {"num_examples": 7})
  assert (found.num_examples, found.num_classes) == (7, 10)
  assert origin.endswith("num_examples given")


def test_given_dataset_info_overrides_published_info():
  config = fakes.upstream_config(data__name="imagenet2012")
  found, origin = preflight.find_info(config, {"num_classes": 7})
  assert found == DatasetInfo(1_281_167, 7, (375, 500))
  assert origin.endswith("num_classes given")
  config.data.examples_per_class = 10
  assert preflight.find_info(config, {})[0].num_examples == 10_000


def test_a_part_of_a_set_that_is_not_there_has_no_known_size():
  config = fakes.upstream_config(
    data__name="imagenet2012", data__train_split="train[:98%]"
  )
  with pytest.raises(InputError, match=r"98%.*give --num_examples"):
    preflight.find_info(config, {})
  assert preflight.find_info(config, {"num_examples": 9})[0].num_examples == 9


def test_what_is_missing_of_an_unknown_set_is_named():
  config = fakes.upstream_config(data__name="no_such_set")
  with pytest.raises(InputError, match="its image_px, num_classes as flags"):
    preflight.find_info(config, {"num_examples": 5})
  given = {"num_examples": 5, "num_classes": 2, "image_px": (9, 9)}
  assert preflight.find_info(config, given) == (DatasetInfo(**given), "given")


# What does not fit.


def test_what_was_tried_and_what_fits_is_said(capsys):
  def compiler(config, mesh):
    parts = config.optim.accum_steps
    gib = 4 if config.parallel.shard_state else 5
    return aot.StepCost(gib * aot.GIB // parts)

  with mock.patch.object(aot, "compile_step", compiler):
    assert run(*INFO, "--hbm_gib=2.6") == 1
  captured = capsys.readouterr()
  assert captured.err.startswith(
    "error: the step does not fit: a device needs 5.00 GiB and has 2.60; it "
    "fits with --config.optim.accum_steps=2"
  )
  assert captured.err.count("\n") == 1
  tried = captured.out.splitlines()[-2:]
  assert tried == [
    "with --config.parallel.shard_state=true: 4.00 GiB, does not fit",
    "with --config.optim.accum_steps=2: 2.50 GiB, fits",
  ]


def test_two_overrides_are_printed_as_they_are_passed(capsys):
  def compiler(config, mesh):
    both = config.parallel.shard_state and config.optim.accum_steps == 2
    return aot.StepCost((1 if both else 3) * aot.GIB)

  with mock.patch.object(aot, "compile_step", compiler):
    assert run(*INFO, "--hbm_gib=2") == 1
  captured = capsys.readouterr()
  both = "--config.parallel.shard_state=true --config.optim.accum_steps=2"
  assert f"; it fits with {both}" in captured.err
  assert captured.err.count("\n") == 1
  assert captured.out.splitlines()[-1] == f"with {both}: 1.00 GiB, fits"


def test_a_compiler_that_refuses_without_known_memory(capsys):
  cost = aot.StepCost(MIB, refusal="too large")
  with mock.patch.object(aot, "compile_step", return_value=cost):
    assert run(*INFO) == 1
  error = capsys.readouterr().err
  assert "does not fit: the compiler refuses: too large; " in error
  assert error.count("\n") == 1


def test_nothing_that_fits(capsys):
  with mock.patch.object(
    aot, "compile_step", return_value=aot.StepCost(aot.GIB)
  ):
    assert run(*INFO, "--hbm_gib=0.5") == 1
  assert (
    "nothing that keeps the numbers makes it fit; more devices, a smaller "
  ) in capsys.readouterr().err


def test_no_suggestions_compiles_only_what_is_asked(capsys):
  with mock.patch.object(
    aot, "compile_step", mock.Mock(return_value=aot.StepCost(2 * aot.GIB))
  ) as compiler:
    assert run(*INFO, "--hbm_gib=1", "--no_suggestions", "--json") == 1
  assert compiler.call_count == 1
  captured = capsys.readouterr()
  assert captured.err.startswith("error: the step does not fit: a device needs")
  assert "--config.parallel.shard_state=true, more devices" in captured.err
  assert captured.err.count("\n") == 1
  assert json.loads(captured.out)["fits"] is False


def test_json_lists_what_was_tried(capsys):
  def compiler(config, mesh):
    return aot.StepCost((1 if config.parallel.shard_state else 2) * aot.GIB)

  with mock.patch.object(aot, "compile_step", compiler):
    assert run(*INFO, "--hbm_gib=1.5", "--json") == 1
  captured = capsys.readouterr()
  found = json.loads(captured.out)
  assert found["suggestion"] == {"parallel.shard_state": True}
  assert [tried["fits"] for tried in found["tried"]] == [True]
  assert found["tried"][0]["argument_bytes"] == aot.GIB
  assert "it fits with --config.parallel.shard_state=true" in captured.err


# Devices.


def test_without_libtpu_the_extra_is_named(monkeypatch, capsys):
  find_spec = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util,
    "find_spec",
    lambda name, *args: None if name == "libtpu" else find_spec(name, *args),
  )
  assert run("--topology=v3:2x2") == 1
  error = capsys.readouterr().err
  assert "--topology=v3:2x2 needs libtpu" in error
  assert "pip install -e '.[preflight]'" in error
  assert error.count("\n") == 1


@pytest.mark.usefixtures("libtpu")
@pytest.mark.parametrize("name", ["v3", "v9:2x2", "v3:3x3", "v3:0x0", "v3:x"])
def test_topologies_that_do_not_exist(name, capsys):
  assert run(f"--topology={name}") == 1
  error = capsys.readouterr().err
  assert f"--topology={name}: expected a TPU generation" in error
  assert error.count("\n") == 1


@pytest.mark.usefixtures("libtpu")
def test_too_many_devices_for_the_batch(capsys):
  assert run("--topology=v3:16x16") == 1
  assert "number of devices, 512" in capsys.readouterr().err


@pytest.mark.usefixtures("libtpu")
def test_a_step_is_compiled_for_a_topology(capsys):
  assert run("--topology=v3:2x2", "--json", *INFO) == 0
  found = json.loads(capsys.readouterr().out)
  assert found["num_devices"] == 8
  assert found["device_kind"] == "TPU v3"
  assert found["compiler"].startswith("libtpu ")
  # A TPU pads small arrays.
  assert 1 < found["argument_bytes"] / (2 * PARAMS_BYTES) < 1.5
  assert found["code_bytes"] > 0
  assert found["flops"] > 0
  assert found["fits"]
