"""Finds config and study files by their names, and lets them import others."""

import contextlib
import difflib
import importlib.machinery
import os
import pathlib
import re
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

from bit_jax.errors import UsageError
from bit_jax.storage import user_paths

_PACKAGE = "bit_jax.configs"
# Files in a folder of this name can be named without it, and import each other
# by it.
_FOLDER = "configs"
# NAME, NAME.py and configs/NAME.py mean the same.
_NAME = re.compile(rf"(?:\./)?(?:{_FOLDER}/)?(\w+)(?:\.py)?")


def _packaged() -> pathlib.Path:
  """Returns the folder of the configs that come with bit_jax."""
  # Imported by its name in a text: configs stand above this package and import
  # it. Only their place is asked for.
  return pathlib.Path(importlib.import_module(_PACKAGE).__path__[0])


def names() -> list[str]:
  """Returns the names of the recipes and studies that come with bit_jax."""
  found = {path.stem for path in _packaged().glob("*.py")}
  return sorted(found - {"__init__", "common"})


def find(spec: str, flag: str = "--config") -> str:
  """Returns `PATH:ARGUMENTS` for the `NAME:ARGUMENTS` of a command line.

  A file of this path goes first, then configs/NAME.py in the current folder,
  then NAME of the configs that come with bit_jax; `configs/NAME.py` names the
  latter as well where no such file exists.

  Args:
    spec: `NAME` or `PATH`, with or without `:ARGUMENTS`.
    flag: The flag that has this value, for messages.

  Raises:
    UsageError: There is no such file and no config of that name.

  Example:
    >>> file, arguments = find("downstream:dataset=digits").split(":")
    >>> file.endswith("downstream.py"), arguments
    (True, 'dataset=digits')
  """
  path, colon, arguments = user_paths.expand(spec).partition(":")
  try:
    os.stat(path)
    is_there = not os.path.isdir(path)
  except (FileNotFoundError, NotADirectoryError):
    is_there = False
  except (OSError, ValueError):
    is_there = True  # Whoever reads it gets the reason.
  if not is_there:
    path = _by_name(path, flag)
  return f"{path}{colon}{arguments}"


def _by_name(path: str, flag: str) -> str:
  match = _NAME.fullmatch(path)
  if match:
    here = pathlib.Path(_FOLDER, f"{match[1]}.py")
    for file in (here, _packaged() / here.name):
      if file.is_file() and match[1] != "__init__":
        return str(file)
  known = names()
  close = difflib.get_close_matches(pathlib.Path(path).stem, known, n=1)
  hint = f" (did you mean {close[0]}?)" if close else ""
  raise UsageError(
    f"{flag}={path}: there is no such Python file{hint}; of configs/ there are "
    + ", ".join(known)
  )


class _Finder:
  """Finds `configs` and its modules where Python's own finders do not."""

  def __init__(self, folders: Sequence[str]):
    self._folders = folders

  def find_spec(
    self, name: str, path: Any = None, target: ModuleType | None = None
  ) -> importlib.machinery.ModuleSpec | None:
    """Returns the spec of a module of `configs`, or None for all others."""
    del path, target
    if name == _FOLDER:
      # Without a loader it is a namespace package, which has no file.
      spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
      spec.submodule_search_locations = [*self._folders]
      return spec
    if name.startswith(f"{_FOLDER}."):
      return importlib.machinery.PathFinder.find_spec(name, self._folders)
    return None


@contextlib.contextmanager
def importable() -> Iterator[None]:
  """A context in which a config file can import others from any folder.

  `from configs import NAME` finds NAME in the folder configs/ of the current
  folder, or else among the configs that come with bit_jax. What was imported in
  this way is forgotten at the end, as the current folder may be another one
  next time. `from bit_jax.configs import NAME` needs no context.
  """
  folders = [os.path.abspath(_FOLDER), str(_packaged())]
  finder: Any = _Finder(folders)
  before = {name for name in sys.modules if _is_of_folder(name)}
  sys.meta_path.append(finder)
  # ml_collections runs every file in this module, with what others left there.
  sys.modules.pop("config_config", None)
  try:
    yield
  finally:
    sys.meta_path.remove(finder)
    for name in [name for name in sys.modules if _is_of_folder(name)]:
      if name not in before:
        del sys.modules[name]


def _is_of_folder(name: str) -> bool:
  return name == _FOLDER or name.startswith(f"{_FOLDER}.")
