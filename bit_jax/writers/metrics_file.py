"""metrics.jsonl, read and cut back to the step a run goes on from."""

import json
from collections.abc import Iterator
from typing import Any

from etils import epath

from bit_jax.errors import InputError, one_line
from bit_jax.storage import remote

METRICS_FILE = "metrics.jsonl"


def read_metrics(path: epath.PathLike) -> list[dict[str, Any]]:
  """Reads a metrics.jsonl: one mapping a write, with "step" and the metrics.

  A last line that a killed process left half written is dropped.

  Raises:
    InputError: if there is no such file, or another line is malformed.
  """
  return [record for _, record in _read_lines(epath.Path(path))]


def truncate_after(
  path: epath.PathLike, step: int, target: epath.PathLike = ""
) -> None:
  """Cuts a metrics.jsonl back to what was written when `step` was saved.

  That is all of the steps before it, and what training wrote of itself; its
  evaluations come after the save, so they are run and written again.

  The file is replaced in one go, so that being killed meanwhile does no harm.
  A last line that a killed process left half written goes as well. Does
  nothing if there is no such file.

  Args:
    path: of the file.
    step: the restored one.
    target: a local file to write instead of changing the one at `path`.

  Raises:
    InputError: if another line is malformed; the file is left as it was.
  """
  path = epath.Path(path)
  try:
    with remote.os_errors():
      if not path.exists():
        return
  except OSError as e:
    raise _unreadable(path, e) from e
  kept = [
    line + b"\n"
    for line, record in _read_lines(path)
    if record["step"] < step
    or (
      record["step"] == step and not any(k.startswith("eval/") for k in record)
    )
  ]
  target = epath.Path(target or path)
  replacement = target.with_name(target.name + ".tmp")
  replacement.write_bytes(b"".join(kept))
  replacement.replace(target)


def _unreadable(path: epath.Path, error: OSError) -> InputError:
  return InputError(
    f"{path}: cannot be read: {error.strerror or one_line(error)}"
  )


def _read_lines(path: epath.Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
  """Gives each line without its line end, and what it says."""
  try:
    with remote.os_errors():
      content = path.read_bytes()
  except OSError as e:
    raise _unreadable(path, e) from e
  *lines, torn = content.split(b"\n")
  for number, line in enumerate(lines, 1):
    record = _parse(line)
    if record is None:
      raise InputError(
        f'{path}, line {number}: expected a JSON object with an integer "step"'
        f" and numbers or null, got {line[:60].decode(errors='replace')!r}"
      )
    yield line, record
  record = _parse(torn)
  if record is not None:
    yield torn, record


def _parse(line: bytes) -> dict[str, Any] | None:
  """What a line of metrics says, or None if it is malformed."""
  try:
    record = json.loads(line.decode())
  except ValueError:
    return None
  if not isinstance(record, dict) or not isinstance(record.get("step"), int):
    return None
  # Unlike isinstance, type tells true and false from numbers.
  numbers = all(type(v) in (int, float, type(None)) for v in record.values())
  return record if numbers else None
