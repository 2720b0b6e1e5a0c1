import jax
import numpy as np
import pytest

from bit_jax.parallel import sharding


@pytest.fixture
def compiled():
  """Yields a list that the names of compiled functions are appended to."""
  names = []

  def listen(event, duration, fun_name="", **_):
    if event.endswith("backend_compile_duration"):
      names.append(fun_name)

  jax.monitoring.register_event_duration_secs_listener(listen)
  yield names
  jax.monitoring.unregister_event_duration_listener(listen)


def test_arrays_of_any_sharding_are_read_without_compiling(mesh, compiled):
  x = np.arange(40, dtype=np.float32).reshape(8, 5)
  tree = {
    "split": jax.device_put(x, sharding.split(mesh)),
    "whole": jax.device_put(x + 1, sharding.replicated(mesh)),
  }
  got = sharding.to_host(tree, mesh)
  np.testing.assert_array_equal(got["split"], x)
  np.testing.assert_array_equal(got["whole"], x + 1)
  assert compiled == []


def test_every_device_gets_the_whole_of_an_array(mesh, compiled):
  x = np.arange(24, dtype=np.float32).reshape(8, 3)
  trees = [
    {"a": x, "b": x[0]},
    {"a": jax.device_put(x, jax.devices()[1]), "b": x[0]},
    {
      "a": jax.device_put(x, sharding.split(mesh)),
      "b": jax.device_put(x[0], sharding.replicated(mesh)),
    },
  ]
  for tree in trees:
    got = sharding.to_devices(tree, mesh)
    for key, wanted in (("a", x), ("b", x[0])):
      assert got[key].sharding == sharding.replicated(mesh)
      np.testing.assert_array_equal(got[key], wanted)
  # One for all the arrays that were split.
  assert len(compiled) <= 1


def test_what_every_device_has_is_not_copied(mesh):
  x = jax.device_put(np.zeros(3), sharding.replicated(mesh))
  assert sharding.to_devices({"a": x}, mesh)["a"] is x
