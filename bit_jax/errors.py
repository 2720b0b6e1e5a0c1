"""The two errors that end a command in one clear line, and how they do."""

import sys
from collections.abc import Callable


class InputError(ValueError):
  """Bad input from the user; the command prints the message and exits 1."""


class UsageError(ValueError):
  """An unknown flag, config key or argument; the command exits 2."""


def one_line(message: object) -> str:
  """Returns a message, or that of an error, without line breaks."""
  return " ".join(str(message).split()) or type(message).__name__


def exit_status(command: Callable[[], object]) -> int:
  """Runs a command; bad input ends in one line on stderr.

  Returns:
    What the process exits with: 0, 1 after an InputError, 2 after a UsageError,
    130 after Ctrl-C.
  """
  try:
    command()
  except (InputError, UsageError) as e:
    print(f"error: {one_line(e)}", file=sys.stderr)
    return 1 if isinstance(e, InputError) else 2
  except KeyboardInterrupt:
    return 130
  return 0
