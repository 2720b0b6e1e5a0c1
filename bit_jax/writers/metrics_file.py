"""Reads metrics.jsonl and truncates it when a run is resumed."""

import json
from collections.abc import Iterator
from typing import Any

from etils import epath

from bit_jax.errors import InputError, failure, one_line
from bit_jax.storage import remote

METRICS_FILE = "metrics.jsonl"


def read_metrics(path: epath.PathLike) -> list[dict[str, Any]]:
  """Reads a metrics.jsonl.

  An incomplete last line, which a killed process may leave, is ignored.

  Args:
    path: The file.

  Returns:
    One dict per line, with "step" and the metrics.

  Raises:
    InputError: The file cannot be read, or another line is malformed.
  """
  return [record for _, record in _read_lines(epath.Path(path))]


def read_curves(
  path: epath.PathLike,
) -> dict[str, tuple[list[int], list[float | None]]]:
  """Returns {metric: (steps, values)} of a metrics.jsonl, as `read_metrics`."""
  curves = {}
  for record in read_metrics(path):
    step = record.pop("step")
    for metric, value in record.items():
      steps, values = curves.setdefault(metric, ([], []))
      steps.append(step)
      values.append(value)
  return curves


def truncate_after(
  path: epath.PathLike, step: int, target: epath.PathLike = ""
) -> None:
  """Truncates a metrics.jsonl to the lines written before `step` was saved.

  These are all lines of earlier steps, and the training metrics of the step
  itself. Its evaluations come after the save, so they are run and written
  again. An incomplete last line is removed as well. The file is replaced
  atomically. Does nothing if there is no such file.

  Args:
    path: The file.
    step: The restored step.
    target: A local file to write to instead of replacing `path`; '' for `path`.

  Raises:
    InputError: Another line is malformed, or the file cannot be read; it is
      left as it was.
  """
  path = epath.Path(path)
  if not remote.exists(path):
    return
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
  with remote.writing(target):
    replacement.write_bytes(b"".join(kept))
    replacement.replace(target)


def _read_lines(path: epath.Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
  """Yields each line without its line end, and the dict that it encodes."""
  try:
    with remote.os_errors():
      content = path.read_bytes()
  except OSError as e:
    reason = e.strerror or one_line(e)
    raise failure(f"{path}: cannot be read: {reason}", e) from e
  *lines, torn = content.split(b"\n")
  for number, line in enumerate(lines, 1):
    record = _parse(line)
    if record is None:
      raise InputError(
        f'{path}, line {number}: expected a JSON object with an integer "step"'
        f" and numbers or null, got {line[:60].decode(errors='replace')!r}"
      )
    yield line, record
  # The last line may be complete but for its line end.
  record = _parse(torn)
  if record is not None:
    yield torn, record


def _parse(line: bytes) -> dict[str, Any] | None:
  """Returns the dict that a line encodes, or None if it is malformed."""
  try:
    record = json.loads(line.decode())
  except ValueError:
    return None
  if not isinstance(record, dict) or not isinstance(record.get("step"), int):
    return None
  # With isinstance, true and false would pass for numbers.
  numbers = all(type(v) in (int, float, type(None)) for v in record.values())
  return record if numbers else None
