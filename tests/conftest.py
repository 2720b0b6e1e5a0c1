"""Four virtual CPU devices, and compiled functions kept between runs."""

import importlib.util
import os
import pathlib
from unittest import mock

from tests import processes

ROOT = pathlib.Path(__file__).resolve().parent.parent
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Before JAX is imported; subprocesses of tests inherit it.
os.environ["XLA_FLAGS"] = (
  f"--xla_force_host_platform_device_count=4 {processes.COMPILE_SOON}"
)
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
# No stack trace for every operation in what XLA compiles: a tenth less to do.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")

import jax
import pytest

from bit_jax import progress
from bit_jax.parallel import sharding


@pytest.fixture(scope="session")
def mesh():
  """All four devices."""
  return sharding.make_mesh()


@pytest.fixture(scope="session")
def one_device():
  """A mesh of one device."""
  return sharding.make_mesh(jax.devices()[:1])


# A slow machine would show more lines than a fast one.
progress.EVERY_SECS = 600.0


@pytest.fixture(autouse=True)
def said_before():
  """Forgets what earlier tests said, which the next log would begin with."""
  progress._before.clear()


@pytest.fixture
def ended(monkeypatch):
  """The last line of each activity that is over, as people would see it."""
  texts, stop = [], progress.Activity.stop

  def record(doing):
    texts.append(doing.text())
    stop(doing)

  monkeypatch.setattr(progress.Activity, "stop", record)
  return texts


@pytest.fixture
def libtpu():
  """What a test that compiles for TPUs needs; it is skipped without."""
  if importlib.util.find_spec("libtpu") is None:
    pytest.skip("libtpu is not installed; pip install -e '.[preflight]'")
  with mock.patch.dict(os.environ):  # Topologies leave traces there.
    yield
