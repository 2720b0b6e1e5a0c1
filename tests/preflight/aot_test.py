from unittest import mock

import jax
import jax.numpy as jnp
import pytest

from bit_jax.data.source import DatasetInfo
from bit_jax.parallel import sharding
from bit_jax.preflight import aot
from bit_jax.recipe import resolve
from tests import fakes

MIB = 2**20
PARAMS_BYTES = 4 * 507_674
IMAGE_BYTES = 32 * 32 * 3 + 8  # With label and index.


def make_config(**overrides):
  """A resolved config of a small network."""
  config = fakes.upstream_config(batch_size=256, **overrides)
  return resolve.resolve(config, DatasetInfo(1000, 10, (32, 32)))


# The update step.


@pytest.fixture(scope="module")
def measured(mesh):
  """Costs of the step, whole and accumulated over four parts."""
  costs = []
  for parts in (1, 4):
    config = make_config(optim__accum_steps=parts)
    costs.append(aot.compile_step(config, mesh))
  return costs


def test_the_very_step_is_compiled_and_measured(measured, mesh):
  cost, _ = measured
  config = make_config()
  assert cost.argument_bytes == aot.argument_bytes(config, mesh)
  # Parameters and momentum, one device's images, two step counters, one key.
  assert cost.argument_bytes == 2 * PARAMS_BYTES + 64 * IMAGE_BYTES + 16
  assert cost.output_bytes < 1024  # The state takes the old one's place.
  assert cost.temp_bytes > MIB
  assert 1e9 < cost.flops < 1e10
  assert cost.compile_secs > 0
  assert cost.trace_secs > 0
  assert not cost.refusal


def test_accumulation_costs_as_much_in_less_memory(measured):
  whole, parts = measured
  assert parts.temp_bytes < whole.temp_bytes
  assert 0.9 < parts.flops / whole.flops < 1.2


# Any function.


def test_bytes_accessed_tell_the_number_of_passes():
  x = jax.ShapeDtypeStruct((64, 1024), jnp.float32)
  size = 64 * 1024 * 4

  def passes(function):
    compiled, cost = aot.compile_function(jax.jit(function), x)
    assert compiled(jnp.ones((64, 1024))).shape[0] == 64
    return cost.bytes_accessed / size

  assert passes(lambda x: 2 * x + 1) == pytest.approx(2, rel=0.01)
  # Read once for the mean, and once more to use it.
  centred = passes(lambda x: x - x.mean(1, keepdims=True))
  assert centred == pytest.approx(3, rel=0.05)


def test_device_bytes_with_and_without_sharding(mesh):
  config = make_config()
  batch = aot.abstract_batch(config, fakes.spec(config, mesh))
  assert aot.device_bytes(batch) == 64 * IMAGE_BYTES
  whole = {k: jax.ShapeDtypeStruct(x.shape, x.dtype) for k, x in batch.items()}
  assert aot.device_bytes(whole) == 256 * IMAGE_BYTES


# A compiler that gives up.


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
def test_a_compiler_that_refuses(message, wanted, says, mesh):
  config = make_config()
  lowered = mock.Mock()
  lowered.lower.return_value.compile.side_effect = jax.errors.JaxRuntimeError(
    message
  )
  with mock.patch("bit_jax.run.step.make_update_step", return_value=lowered):
    cost = aot.compile_step(config, mesh)
  assert cost.argument_bytes == aot.argument_bytes(config, mesh)
  assert cost.temp_bytes == wanted
  assert cost.refusal == says


def test_other_errors_of_the_compiler_are_not_hidden(mesh):
  config = make_config()
  lowered = mock.Mock()
  lowered.lower.return_value.compile.side_effect = jax.errors.JaxRuntimeError(
    "INTERNAL: a bug"
  )
  with (
    mock.patch("bit_jax.run.step.make_update_step", return_value=lowered),
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


@pytest.mark.usefixtures("libtpu")
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
  assert sharding.make_mesh(devices).size == count
