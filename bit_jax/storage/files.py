"""Reads JSON files; writes small text files atomically."""

import json
from typing import Any

from etils import epath

from bit_jax.errors import InputError
from bit_jax.storage import remote

_JSON_NAMES = {dict: "object", list: "array"}


def read_json(path: epath.PathLike, kind: type = dict, what: str = "") -> Any:
  """Reads a JSON file.

  Args:
    path: A file in UTF-8.
    kind: Type of the value to expect, dict or list.
    what: Name of the file in messages; '' for its path.

  Returns:
    The value.

  Raises:
    InputError: The file cannot be read, or its value is of another type.
  """
  what = what or str(path)
  try:
    value = json.loads(epath.Path(path).read_text())
  except (OSError, ValueError) as e:
    raise InputError(f"{what} cannot be read: {e}") from e
  if not isinstance(value, kind):
    raise InputError(f"{what}: expected a JSON {_JSON_NAMES[kind]}")
  return value


def write_text(path: epath.PathLike, text: str) -> None:
  """Writes a text file atomically: whole or not at all.

  Args:
    path: The file, an existing one is replaced; its folder must exist.
    text: Content of the file, written in UTF-8.

  Raises:
    OSError: The file cannot be written; an existing one is left as it was.
  """
  path = epath.Path(path)
  if remote.is_remote(path):
    # In an object store, every write is atomic.
    with remote.os_errors():
      path.write_bytes(text.encode())
    return
  part = path.with_name(path.name + ".part")
  part.write_text(text)
  part.replace(path)
