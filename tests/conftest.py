"""Four virtual CPU devices, and compiled functions kept between runs."""

import os
import pathlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Before JAX is imported; subprocesses of tests inherit it.
# Tests compile far longer than they run: level 0 takes a third off the whole.
os.environ["XLA_FLAGS"] = (
  "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
)
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

import jax
import pytest

from bit_jax import parallel


@pytest.fixture(scope="session")
def mesh():
  """All four devices."""
  return parallel.make_mesh()


@pytest.fixture(scope="session")
def one_device():
  """A mesh of one device."""
  return parallel.make_mesh(jax.devices()[:1])
