"""Folders of the user's cache, which keep results between runs."""

import os
import pathlib

import jax

from bit_jax.storage import user_paths


def folder(name: str) -> pathlib.Path:
  """Returns a folder in $XDG_CACHE_HOME or ~/.cache, without creating it."""
  base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
  return pathlib.Path(user_paths.expand(base)) / "bit_jax" / name


def enable_compilation_cache() -> None:
  """Caches compiled functions on disk for later processes.

  The folder is $JAX_COMPILATION_CACHE_DIR if it is set, else one in the user's
  cache.
  """
  chosen = os.environ.get("JAX_COMPILATION_CACHE_DIR")
  if chosen is None:
    jax.config.update("jax_compilation_cache_dir", str(folder("jax")))
  elif chosen.startswith("~"):  # JAX would take it literally.
    jax.config.update("jax_compilation_cache_dir", user_paths.expand(chosen))
  if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
    # JAX's default leaves out functions that compile in less than 1 s. A run
    # has fewer than ten functions, so that all of them can be kept.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
