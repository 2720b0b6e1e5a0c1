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
