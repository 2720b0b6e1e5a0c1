import importlib.util
import json
import os
import pathlib
from unittest import mock

import jax
import pytest

from bit_jax import parallel, recipe
from bit_jax.errors import InputError
from bit_jax.recipe import DataFacts
from bit_jax.tools import aot, preflight
from configs import upstream

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SMALL = "configs/upstream.py:preset=bit_s,model=R14x0.25"
FACTS = ("--num_examples=1000", "--num_classes=10", "--image_px=32")
MIB = 2**20
PARAMS_BYTES = 4 * 507_674
IMAGE_BYTES = 32 * 32 * 3 + 8  # With label and index.

needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None,
  reason="libtpu is not installed; pip install -e '.[preflight]'",
)


@pytest.fixture(autouse=True)
def at_root(monkeypatch, tmp_path):
  """Where configs/ is; with no data sets."""
  monkeypatch.chdir(ROOT)
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
  with mock.patch.dict(os.environ):  # Topologies leave traces there.
    yield


def make_config(*, batch_size=16, **overrides):
  config = upstream.get_config("preset=bit_s,model=R14x0.25")
  config.input.batch_size = batch_size
  config.update_from_flattened_dict(
    {key.replace("__", "."): value for key, value in overrides.items()}
  )
  return config


def make_flight(config, mesh, usable_bytes, temp_bytes=64 * MIB):
  """A flight whose compiler is asked nothing; `compiled` lists the steps."""
  compiled = []

  def compiler(config, mesh):
    compiled.append((config.parallel.shard_state, config.optim.accum_steps))
    return aot.Needs(
      argument_bytes=aot.argument_bytes(config, mesh),
      temp_bytes=temp_bytes // config.optim.accum_steps,
    )

  facts = DataFacts(1000, 10, (32, 32))
  flight = aot.Preflight(config, facts, mesh, usable_bytes, compiler)
  return flight, compiled


def run(*args):
  return preflight.main(
    [f"--config={SMALL}", "--config.input.batch_size=16", *args]
  )


# The command.


@pytest.fixture(scope="module")
def measured(mesh):
  """What the compiler says of the step, whole and in four parts."""
  needs = []
  for parts in (1, 4):
    config = make_config(batch_size=256, optim__accum_steps=parts)
    config = recipe.resolve(config, DataFacts(1000, 10, (32, 32)))
    needs.append(aot.compile_step(config, mesh))
  return needs


def test_the_very_step_is_compiled_and_measured(measured, mesh):
  needs, _ = measured
  config = make_config(batch_size=256)
  config = recipe.resolve(config, DataFacts(1000, 10, (32, 32)))
  assert needs.argument_bytes == aot.argument_bytes(config, mesh)
  # Momentum too; the images of one device; step, twice, and key.
  assert needs.argument_bytes == 2 * PARAMS_BYTES + 64 * IMAGE_BYTES + 16
  assert needs.output_bytes < 1024  # The state takes the old one's place.
  assert needs.temp_bytes > MIB
  assert 1e9 < needs.flops < 1e10
  assert needs.compile_secs > 0
  assert needs.trace_secs > 0
  assert not needs.refusal


def test_accumulation_costs_as_much_in_less_memory(measured):
  whole, parts = measured
  assert parts.temp_bytes < whole.temp_bytes
  assert 0.9 < parts.flops / whole.flops < 1.2


def test_json_has_the_numbers(capsys, measured):
  with mock.patch.object(aot, "compile_step", return_value=measured[0]):
    assert run(*FACTS, "--hbm_gib=1", "--json") == 0
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
    "argument_bytes": measured[0].argument_bytes,
    "temp_bytes": measured[0].temp_bytes,
    "flops": measured[0].flops,
    "bytes_accessed": measured[0].bytes_accessed,
    "usable_bytes": 2**30,
    "waiting_bytes": 3 * 4 * IMAGE_BYTES,
    "fits": True,
    "tried": [],
    "suggestion": None,
  }
  assert {key: found[key] for key in expected} == expected
  total = measured[0].total_bytes + expected["waiting_bytes"]
  assert found["total_bytes"] == total
  assert found["free_bytes"] == 2**30 - total


def test_text_has_the_numbers(capsys):
  needs = aot.Needs(
    argument_bytes=2 * aot.GIB,
    temp_bytes=3 * aot.GIB,
    code_bytes=aot.GIB // 2,
    output_bytes=aot.GIB // 4,
    flops=1.5e12,
    bytes_accessed=2.5e9,
    estimated_secs=0.0125,
    compile_secs=12.34,
  )
  with mock.patch.object(aot, "compile_step", return_value=needs):
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


def test_memory_that_is_unknown_is_not_judged(capsys, measured):
  # The CPU states none.
  with mock.patch.object(aot, "compile_step", return_value=measured[0]):
    assert run(*FACTS) == 0
    out = capsys.readouterr().out
    assert "--hbm_gib= says it" in out
    assert "fits" not in out
    assert run(*FACTS, "--json") == 0
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
    (("--config.resolved.crop_px=3", *FACTS), 2, "config.resolved"),
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


def test_overrides_come_in_any_order(measured):
  seen = []

  def compiler(config, mesh):
    seen.append(config)
    return measured[0]

  with mock.patch.object(aot, "compile_step", compiler):
    code = preflight.main(
      [
        *("--config.input.batch_size=8", "--workdir=/nowhere", *FACTS),
        *(f"--config={SMALL}", "--config.optim.accum_steps", "2"),
      ]
    )
  assert code == 0
  assert (seen[0].input.batch_size, seen[0].optim.accum_steps) == (8, 2)


# The data.


@pytest.mark.parametrize(
  ("name", "facts"),
  [
    ("imagenet2012", DataFacts(1_281_167, 1000, (375, 500))),
    ("imagenet2012:5.*.*", DataFacts(1_281_167, 1000, (375, 500))),
    ("imagenet21k", DataFacts(14_197_122, 21_843, (375, 500))),
    ("jft300m", DataFacts(300_000_000, 18_291, (375, 500))),
    ("cifar100", DataFacts(50_000, 100, (32, 32))),
  ],
)
def test_sets_that_are_not_there(name, facts):
  found, origin = preflight.find_facts(make_config(data__name=name), {})
  assert found == facts
  assert "assumed" in origin


def test_a_set_that_is_there_is_read(tmp_path):
  config = make_config(
    data__name="digits",
    data__examples_per_class=5,
    data__subset_file=str(tmp_path / "subset.json"),
  )
  found, origin = preflight.find_facts(config, {})
  assert (found.num_examples, found.num_classes) == (50, 10)
  assert found.native_px == 32
  assert origin == "read from the data set"
  assert not any(tmp_path.iterdir())
  found, origin = preflight.find_facts(config, {"num_examples": 7})
  assert (found.num_examples, found.num_classes) == (7, 10)
  assert origin.endswith("num_examples given")


def test_given_facts_go_before_published_ones():
  config = make_config(data__name="imagenet2012")
  found, origin = preflight.find_facts(config, {"num_classes": 7})
  assert found == DataFacts(1_281_167, 7, (375, 500))
  assert origin.endswith("num_classes given")
  config.data.examples_per_class = 10
  assert preflight.find_facts(config, {})[0].num_examples == 10_000


def test_a_part_of_a_set_that_is_not_there_has_no_known_size():
  config = make_config(
    data__name="imagenet2012", data__train_split="train[:98%]"
  )
  with pytest.raises(InputError, match=r"98%.*give --num_examples"):
    preflight.find_facts(config, {})
  assert preflight.find_facts(config, {"num_examples": 9})[0].num_examples == 9


def test_what_is_missing_of_an_unknown_set_is_named():
  config = make_config(data__name="no_such_set")
  with pytest.raises(InputError, match="its image_px, num_classes as flags"):
    preflight.find_facts(config, {"num_examples": 5})
  given = {"num_examples": 5, "num_classes": 2, "image_px": (9, 9)}
  assert preflight.find_facts(config, given) == (DataFacts(**given), "given")


# What does not fit.


def test_the_first_alternative_that_fits_is_named(mesh, capsys):
  config = make_config()
  flight, compiled = make_flight(config, mesh, 20 * MIB)
  with pytest.raises(InputError) as e:
    preflight.run(flight)
  # 64 MiB of temporaries: in four parts 16, and 3.9 MiB of arguments.
  assert "needs 0.07 GiB and has 0.02" in str(e.value)
  assert str(e.value).endswith("it fits with --config.optim.accum_steps=4")
  assert compiled == [(False, 1), (True, 1), (False, 2), (True, 2), (False, 4)]
  out = capsys.readouterr().out
  assert (
    "with --config.parallel.shard_state=true "
    "--config.optim.accum_steps=2: 0.03 GiB, does not fit"
  ) in out
  assert "with --config.optim.accum_steps=4: 0.02 GiB, fits" in out


def test_exactly_what_there_is_fits(mesh):
  flight, _ = make_flight(make_config(), mesh, MIB)
  flight.usable_bytes = flight.attempt({}).total_bytes
  assert flight.attempt({}).fits
  flight.usable_bytes -= 1
  assert flight.attempt({}).fits is False


def test_arguments_alone_too_large_are_not_compiled(mesh):
  # 3.9 MiB replicated, 1.0 split; accumulation alone cannot help.
  flight, compiled = make_flight(make_config(), mesh, 3 * MIB, temp_bytes=MIB)
  with pytest.raises(InputError, match="shard_state=true$"):
    preflight.run(flight)
  assert compiled == [(False, 1), (True, 1)]
  flight, compiled = make_flight(
    make_config(), mesh, 3 * MIB, temp_bytes=7 * MIB
  )
  with pytest.raises(InputError, match=r"true --config.optim.accum_steps=4$"):
    preflight.run(flight)
  assert compiled == [(False, 1), (True, 1), (True, 2), (True, 4)]


def test_nothing_fits(mesh):
  flight, compiled = make_flight(make_config(), mesh, MIB, temp_bytes=8 * MIB)
  with pytest.raises(InputError, match=r"nothing .* more devices, a smaller"):
    preflight.run(flight)
  # Sharded and in parts, then both again with rematerialization.
  assert compiled == [(False, 1), *2 * [(True, 1), (True, 2), (True, 4)]]


def test_no_suggestions_compiles_only_what_is_asked(capsys):
  with mock.patch.object(
    aot, "compile_step", mock.Mock(return_value=aot.Needs(2 * aot.GIB))
  ) as compiler:
    assert run(*FACTS, "--hbm_gib=1", "--no_suggestions", "--json") == 1
  assert compiler.call_count == 1
  captured = capsys.readouterr()
  assert captured.err.startswith("error: the step does not fit: a device needs")
  assert "--config.parallel.shard_state=true, more devices" in captured.err
  assert captured.err.count("\n") == 1
  assert json.loads(captured.out)["fits"] is False


def test_json_lists_what_was_tried(capsys):
  def compiler(config, mesh):
    return aot.Needs((1 if config.parallel.shard_state else 2) * aot.GIB)

  with mock.patch.object(aot, "compile_step", compiler):
    assert run(*FACTS, "--hbm_gib=1.5", "--json") == 1
  captured = capsys.readouterr()
  found = json.loads(captured.out)
  assert found["suggestion"] == {"parallel.shard_state": True}
  assert [tried["fits"] for tried in found["tried"]] == [True]
  assert found["tried"][0]["argument_bytes"] == aot.GIB
  assert "it fits with --config.parallel.shard_state=true" in captured.err


def flags_of(config, mesh):
  flight, _ = make_flight(config, mesh, MIB)
  return [preflight._flags(overrides) for overrides in flight.alternatives()]


def test_alternatives_depend_on_config_and_devices(mesh, one_device):
  shard = "--config.parallel.shard_state=true"
  two, four, eight = (
    f"--config.optim.accum_steps={parts}" for parts in (2, 4, 8)
  )

  def twice(*flags):
    """Then with rematerialization, which comes last and may come alone."""
    again = "--config.model.remat=unit"
    return [*flags, again, *(f"{flag} {again}" for flag in flags)]

  whole = make_config(batch_size=8)
  assert flags_of(whole, mesh) == twice(shard, two, f"{shard} {two}")
  assert flags_of(whole, one_device) == twice(two, four, eight)
  sharded = make_config(batch_size=8, parallel__shard_state=True)
  assert flags_of(sharded, mesh) == twice(two)
  halved = make_config(optim__accum_steps=2)
  assert flags_of(halved, mesh) == twice(shard, four, f"{shard} {four}")
  # BatchNorm's statistics are of the whole batch.
  assert flags_of(make_config(model__norm="bn"), mesh) == twice(shard)
  least = make_config(batch_size=8, model__remat="stage")
  assert flags_of(least, mesh) == [shard, two, f"{shard} {two}"]


@pytest.mark.parametrize(
  ("message", "wanted", "says"),
  [
    (
      "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required "
      "for HLO temporaries (129.00G) exceeds available HBM (15.48G).",
      129 * 2**30,
      "Ran out of memory on HBM, the total memory required for HLO temporaries "
      "(129.00G) exceeds available HBM (15.48G)",
    ),
    (
      "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used "
      "512.50M of 15.48G hbm. Exceeded hbm capacity by 6.47G.\n\n"
      "Total hbm usage >= ...",
      512.5 * 2**20,
      "Ran out of memory in memory space hbm. Used 512.50M of 15.48G hbm. "
      "Exceeded hbm capacity by 6.47G",
    ),
    ("RESOURCE_EXHAUSTED: out of registers", 0, "out of registers"),
  ],
)
def test_a_compiler_that_refuses(message, wanted, says, mesh, capsys):
  config = recipe.resolve(make_config(), DataFacts(1000, 10, (32, 32)))
  lowered = mock.Mock()
  lowered.lower.return_value.compile.side_effect = jax.errors.JaxRuntimeError(
    message
  )
  with mock.patch("bit_jax.step.make_update_step", return_value=lowered):
    needs = aot.compile_step(config, mesh)
    assert needs.argument_bytes == aot.argument_bytes(config, mesh)
    assert needs.temp_bytes == wanted
    # Also where the memory of the device is unknown.
    assert run(*FACTS) == 1
  captured = capsys.readouterr()
  assert f"does not fit: the compiler refuses: {says}; " in captured.err
  assert "Total hbm usage" not in captured.err
  assert captured.err.count("\n") == 1


def test_other_errors_of_the_compiler_are_not_hidden(mesh):
  config = recipe.resolve(make_config(), DataFacts(1000, 10, (32, 32)))
  lowered = mock.Mock()
  lowered.lower.return_value.compile.side_effect = jax.errors.JaxRuntimeError(
    "INTERNAL: a bug"
  )
  with (
    mock.patch("bit_jax.step.make_update_step", return_value=lowered),
    pytest.raises(jax.errors.JaxRuntimeError, match="a bug"),
  ):
    aot.compile_step(config, mesh)


# Devices.


@pytest.mark.parametrize(
  ("kind", "stats", "usable"),
  [
    ("TPU v3", None, int(15.48 * aot.GIB)),
    ("TPU v5", None, int(95.74 * aot.GIB)),
    ("NVIDIA H200", {"bytes_limit": 123}, 123),
    ("cpu", None, 0),
    ("cpu", {}, 0),
  ],
)
def test_memory_of_devices(kind, stats, usable):
  device = mock.Mock(device_kind=kind)
  device.memory_stats.return_value = stats
  assert aot.usable_bytes(device) == usable


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


@needs_libtpu
@pytest.mark.parametrize(
  ("name", "count", "kind"),
  [
    ("v3:16x16", 512, "TPU v3"),
    ("v4:2x2x2", 8, "TPU v4"),
    ("v5e:1x1", 1, "TPU v5 lite"),
  ],
)
def test_topologies(name, count, kind):
  devices = aot.topology_devices(name)
  assert len(devices) == count
  assert devices[0].device_kind == kind
  assert aot.usable_bytes(devices[0]) > 0
  assert parallel.make_mesh(devices).size == count


@needs_libtpu
@pytest.mark.parametrize("name", ["v3", "v9:2x2", "v3:3x3", "v3:0x0", "v3:x"])
def test_topologies_that_do_not_exist(name, capsys):
  assert run(f"--topology={name}") == 1
  error = capsys.readouterr().err
  assert f"--topology={name}: expected a TPU generation" in error
  assert error.count("\n") == 1


@needs_libtpu
def test_too_many_devices_for_the_batch(capsys):
  assert run("--topology=v3:16x16") == 1
  assert "number of devices, 512" in capsys.readouterr().err


@needs_libtpu
def test_a_step_is_compiled_for_a_topology(capsys):
  assert run("--topology=v3:2x2", "--json", *FACTS) == 0
  found = json.loads(capsys.readouterr().out)
  assert found["num_devices"] == 8
  assert found["device_kind"] == "TPU v3"
  assert found["compiler"].startswith("libtpu ")
  # Small arrays are padded there.
  assert 1 < found["argument_bytes"] / (2 * PARAMS_BYTES) < 1.5
  assert found["code_bytes"] > 0
  assert found["flops"] > 0
  assert found["fits"]
