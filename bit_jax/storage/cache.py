"""What is kept between runs, below the user's cache folder."""

import os
import pathlib

import jax


def folder(name: str) -> pathlib.Path:
  """Returns a folder in $XDG_CACHE_HOME or ~/.cache; it need not exist."""
  base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
  return pathlib.Path(base) / "bit_jax" / name


def enable_compilation_cache() -> None:
  """Keeps compiled functions between processes.

  $JAX_COMPILATION_CACHE_DIR names another folder.
  """
  if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    jax.config.update("jax_compilation_cache_dir", str(folder("jax")))
  if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
    # A run has less than ten functions; JAX leaves out what takes under 1 s.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
