import pathlib

import jax
import pytest

from bit_jax.storage import cache

DIR = "jax_compilation_cache_dir"
SECS = "jax_persistent_cache_min_compile_time_secs"


@pytest.fixture
def updates(monkeypatch):
  """Clears the environment and records the JAX options that are set."""
  found = {}
  for name in (DIR, SECS, "XDG_CACHE_HOME"):
    monkeypatch.delenv(name.upper(), raising=False)
  monkeypatch.setattr(jax.config, "update", found.__setitem__)
  monkeypatch.setenv("HOME", "/home/me")
  return found


def test_compiled_functions_are_kept_in_the_users_cache(updates):
  cache.enable_compilation_cache()
  assert updates == {DIR: "/home/me/.cache/bit_jax/jax", SECS: 0.0}


def test_variables_of_jax_go_first(updates, monkeypatch):
  monkeypatch.setenv(DIR.upper(), "/elsewhere")
  monkeypatch.setenv(SECS.upper(), "3")
  cache.enable_compilation_cache()
  assert updates == {}


def test_home_folders_in_variables(updates, monkeypatch):
  monkeypatch.setenv(DIR.upper(), "~/jax")
  monkeypatch.setenv("XDG_CACHE_HOME", "~/fast")
  cache.enable_compilation_cache()
  assert updates[DIR] == "/home/me/jax"
  assert cache.folder("x") == pathlib.Path("/home/me/fast/bit_jax/x")


def test_the_cache_folder_can_be_moved(updates, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", "/fast")
  assert cache.folder("features") == pathlib.Path("/fast/bit_jax/features")
