"""Errors of checkpoints: damaged ones, told from disks that fail."""

import contextlib
from collections.abc import Iterator
from typing import Any

from absl import logging
from etils import epath

from bit_jax.errors import (
  InputError,
  UnavailableError,
  is_machine_fault,
  one_line,
)


class DamagedError(InputError):
  """A checkpoint that exists but cannot be restored as it was saved."""


@contextlib.contextmanager
def logged_errors() -> Iterator[list[BaseException]]:
  """Yields a list of the exceptions that are logged from now on."""
  found: list[BaseException] = []

  def look(record: Any) -> bool:
    args = record.args if isinstance(record.args, tuple) else ()
    found.extend(arg for arg in args if isinstance(arg, BaseException))
    return True

  # The first filter: others may drop the record.
  filters = logging.get_absl_logger().filters
  filters.insert(0, look)
  try:
    yield found
  finally:
    filters.remove(look)


def reason_of(error: BaseException) -> str:
  """Returns an error message as one line, without the middle of a long one."""
  text = one_line(error).rstrip(".")  # The system's own message comes last.
  return text if len(text) < 250 else f"{text[:120]} ... {text[-120:]}"


def _is_file_missing(error: BaseException | None) -> bool:
  """Returns True if a missing file caused an Orbax or TensorStore error."""
  while error is not None:
    if isinstance(error, FileNotFoundError) or "NOT_FOUND" in str(error):
      return True
    error = error.__cause__ or error.__context__
  return False


def unreadable(path: epath.Path, error: BaseException) -> Exception:
  """Returns the error to raise where a checkpoint cannot be read.

  DamagedError, unless a disk or network fails, or access is denied: that does
  not mean that the checkpoint is damaged.
  """
  missing = _is_file_missing(error)
  reason = "a file is missing" if missing else reason_of(error)
  message = f"checkpoint {path} cannot be read: {reason}"
  if is_machine_fault(error) and not missing:
    return UnavailableError(message)
  passing = isinstance(error, OSError) and not isinstance(
    error, FileNotFoundError | NotADirectoryError
  )
  return (InputError if passing else DamagedError)(message)
