"""Reads text and JSON files of users; writes small text files atomically.

Text comes from editors of all systems: Windows begins files with a byte-order
mark or writes UTF-16, and macOS spells accents as two characters.
"""

import codecs
import json
import re
import unicodedata
from typing import Any

from etils import epath

from bit_jax.errors import InputError, one_line
from bit_jax.storage import remote

_JSON_NAMES = {dict: "object", list: "array"}
# The mark of UTF-32 starts with that of UTF-16, so it stands before it.
_MARKS = {
  codecs.BOM_UTF8: "utf-8",
  codecs.BOM_UTF32_LE: "utf-32-le",
  codecs.BOM_UTF32_BE: "utf-32-be",
  codecs.BOM_UTF16_LE: "utf-16-le",
  codecs.BOM_UTF16_BE: "utf-16-be",
}
_MARK = "\ufeff"


def normal(name: str) -> str:
  """Returns a name in Unicode's composed form (NFC), without marks of files.

  Names that look the same are then equal: macOS stores the name of a folder
  with accents as separate characters, other systems as they are typed.
  """
  return unicodedata.normalize("NFC", name.replace(_MARK, ""))


def read_text(path: epath.PathLike, what: str = "") -> str:
  """Reads a text file written by any editor.

  Args:
    path: A file in UTF-8, or in UTF-16 or UTF-32 with a byte-order mark.
    what: Name of the file in messages; '' for its path.

  Returns:
    The text without byte-order marks; lines end in a line feed.

  Raises:
    InputError: The file cannot be read, or is not text in such an encoding; the
      message names the line.
  """
  what = what or str(path)
  try:
    with remote.os_errors():
      data = epath.Path(path).read_bytes()
  except OSError as e:
    raise InputError(f"{what} cannot be read: {e}") from e
  mark = next((mark for mark in _MARKS if data.startswith(mark)), b"")
  try:
    text = data[len(mark) :].decode(_MARKS.get(mark, "utf-8"))
  except UnicodeDecodeError as e:
    line = data[: len(mark) + e.start].count(b"\n") + 1
    raise InputError(
      f"{what} cannot be read: line {line} is not in UTF-8 (byte "
      f"0x{data[len(mark) + e.start]:02x}); save the file with the encoding "
      f"UTF-8"
    ) from e
  if "\0" in text:
    line = text[: text.index("\0")].count("\n") + 1
    raise InputError(
      f"{what} cannot be read: line {line} holds a zero byte, so it is not "
      f"text in UTF-8; save the file with the encoding UTF-8"
    )
  # Files that were joined have marks inside.
  return re.sub(r"\r\n?", "\n", text).replace(_MARK, "")


def read_json(path: epath.PathLike, kind: type = dict, what: str = "") -> Any:
  """Reads a JSON file.

  Args:
    path: A text file, as for `read_text`.
    kind: Type of the value to expect, dict or list.
    what: Name of the file in messages; '' for its path.

  Returns:
    The value.

  Raises:
    InputError: The file cannot be read, gives a key twice, or its value is of
      another type.
  """
  what = what or str(path)
  text = read_text(path, what)
  if not text.strip():
    raise InputError(f"{what} cannot be read: the file is empty")
  try:
    value = json.loads(text, object_pairs_hook=_unique)
  except (ValueError, RecursionError) as e:
    raise InputError(f"{what} cannot be read: {one_line(e)}") from e
  if not isinstance(value, kind):
    raise InputError(f"{what}: expected a JSON {_JSON_NAMES[kind]}")
  return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  """Returns a dict of pairs; json alone would drop all but the last value."""
  value = dict(pairs)
  if len(value) < len(pairs):
    keys = [key for key, _ in pairs]
    twice = next(key for key in keys if keys.count(key) > 1)
    raise ValueError(f"the key {twice!r} is there twice")
  return value


def write_text(path: epath.PathLike, text: str) -> None:
  """Writes a text file atomically: whole or not at all.

  Args:
    path: The file, an existing one is replaced; its folder must exist.
    text: Content of the file, written in UTF-8; of names of files that are not
      text, the bytes are written as \\udc80 to \\udcff.

  Raises:
    OSError: The file cannot be written; an existing one is left as it was.
  """
  path, data = epath.Path(path), text.encode(errors="backslashreplace")
  if remote.is_remote(path):
    # In an object store, every write is atomic.
    with remote.os_errors():
      path.write_bytes(data)
    return
  part = path.with_name(path.name + ".part")
  part.write_bytes(data)
  part.replace(path)
