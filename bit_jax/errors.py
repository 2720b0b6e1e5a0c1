"""Errors that end a command in one clear line, and exit codes.

| code | meaning                                                              |
|------|----------------------------------------------------------------------|
| 0    | done                                                                 |
| 1    | bad input; the same command would fail again                         |
| 2    | unknown flag, config key or argument                                 |
| 70   | a defect, or a failure of the machine or of another host or service  |
| 75   | stopped by a signal and saved; the same command resumes              |
| 130  | interrupted with nothing to save                                     |
"""

import sys
import traceback
from collections.abc import Callable, Iterable


class InputError(ValueError):
  """Bad input from the user; the command prints the message and exits 1."""


class UsageError(ValueError):
  """An unknown flag, config key or argument; the command exits 2."""


class StoppedError(RuntimeError):
  """The run was stopped by a signal and its state is saved; exit code 75."""


class UnavailableError(RuntimeError):
  """Something outside the program failed; a retry may work; exit code 70."""


CRASHED = 70
# "Temporary failure" in sysexits.h; launchers run the command again.
STOPPED = 75


def one_line(message: object) -> str:
  """Returns a message, or an error's message, without line breaks."""
  return " ".join(str(message).split()) or type(message).__name__


def some(names: Iterable[str]) -> str:
  """Returns the first three names, sorted, and the number of others."""
  names = sorted(names)
  more = f" and {len(names) - 3} more" if len(names) > 3 else ""
  return ", ".join(names[:3]) + more


def exit_status(command: Callable[[], object]) -> int:
  """Runs a command; prints bad input as one line on stderr.

  Args:
    command: The command, without arguments; its result is ignored.

  Returns:
    The exit code of the process.
  """
  try:
    command()
  except (InputError, UsageError) as e:
    print(f"error: {one_line(e)}", file=sys.stderr)
    return 1 if isinstance(e, InputError) else 2
  except UnavailableError as e:
    print(f"error: {one_line(e)}", file=sys.stderr)
    return CRASHED
  except StoppedError as e:
    print(one_line(e), file=sys.stderr)
    return STOPPED
  except Exception:
    traceback.print_exc()
    return CRASHED
  except KeyboardInterrupt:
    return 130
  return 0
