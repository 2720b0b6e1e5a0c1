"""Recognizes what bit_jax itself writes, where it lies among images."""

import json
import os

from bit_jax.errors import InputError
from bit_jax.storage import cache, user_paths

_CONFIG = "config.json"
# The folders in a work directory.
PARTS = ("checkpoints", "hosts")


def is_work_dir(folder: str) -> bool:
  """Returns True if a folder is the work directory of a run."""
  try:
    with open(os.path.join(folder, _CONFIG), encoding="utf-8") as file:
      stored = json.load(file)
  except (OSError, ValueError):
    return False
  return isinstance(stored, dict) and {"resolved", "optim"} <= stored.keys()


def is_own(folder: str, real: str) -> bool:
  """Returns True if a folder is a work directory or a cache of bit_jax.

  Args:
    folder: The folder.
    real: Its path without links.
  """
  return real in _caches() or is_work_dir(folder)


def check_work_dir(dataset: str, workdir: str) -> None:
  """Checks that a new work directory does not lie on folders of images.

  A work directory of its own below a folder of images is recognized, and left
  out when the images are listed again.

  Args:
    dataset: Name of the data set that the run trains on.
    workdir: The work directory; need not exist.

  Raises:
    InputError: It is the folder of images, or a folder that is in use in it.
  """
  if not dataset.startswith("folder:") or "://" in workdir:
    return
  path = dataset.removeprefix("folder:")
  root = os.path.realpath(user_paths.expand(path))
  real = os.path.realpath(workdir)
  if real != root and not is_inside(real, root):
    return
  if real != root and not os.path.isdir(real):
    return
  if is_work_dir(real) or (real != root and not os.listdir(real)):
    return
  where = "is" if real == root else "is a folder in use inside"
  raise InputError(
    f"--workdir={workdir} {where} the image folder {path}: expected a folder "
    f"that is not among the images"
  )


def is_inside(path: str, folder: str) -> bool:
  """Returns True if a path without links is below a folder without links."""
  return path.startswith(folder.rstrip("/") + "/")


def _caches() -> set[str]:
  paths = [str(cache.folder("")), os.environ.get("JAX_COMPILATION_CACHE_DIR")]
  return {os.path.realpath(path) for path in paths if path}
