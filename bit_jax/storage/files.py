"""Small files: JSON, read; text, written as a whole or not at all."""

import json
from typing import Any

from etils import epath

from bit_jax.errors import InputError
from bit_jax.storage import remote

_JSON_NAMES = {dict: "object", list: "array"}


def read_json(path: epath.PathLike, kind: type = dict, what: str = "") -> Any:
  """Returns what a JSON file holds.

  Args:
    path: a file in UTF-8.
    kind: dict or list, what it should hold.
    what: the file, for messages; '': its path.

  Raises:
    InputError: it cannot be read, or holds something else.
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
  """Writes a file beside its place and moves it there.

  Args:
    path: of the file; its folder must exist.
    text: what it holds, in UTF-8.

  Raises:
    OSError: it cannot be written; a file that was there stays as it was.
  """
  path = epath.Path(path)
  if remote.is_remote(path):
    with remote.os_errors():
      path.write_bytes(text.encode())  # An object appears as a whole.
    return
  part = path.with_name(path.name + ".part")
  part.write_text(text)
  part.replace(path)
