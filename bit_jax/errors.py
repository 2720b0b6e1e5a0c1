"""What ends a command in one clear line, and the code it exits with.

| code | meaning                                                              |
|------|----------------------------------------------------------------------|
| 0    | done                                                                 |
| 1    | bad input; the same command would fail again                         |
| 2    | unknown flag, config key or argument                                 |
| 70   | a defect, or a failure of the machine or of others                   |
| 75   | stopped by a signal, all is saved: the same command goes on          |
| 130  | interrupted where there is nothing to save                           |
"""

import sys
import traceback
from collections.abc import Callable, Iterable


class InputError(ValueError):
  """Bad input from the user; the command prints the message and exits 1."""


class UsageError(ValueError):
  """An unknown flag, config key or argument; the command exits 2."""


class StoppedError(RuntimeError):
  """A signal asked the run to stop and its state is saved; exit code 75."""


class UnavailableError(RuntimeError):
  """Something outside the program fails; it may work again; exit code 70."""


CRASHED = 70
# sysexits.h calls it "temporary failure": launchers run the command again.
STOPPED = 75


def one_line(message: object) -> str:
  """Returns a message, or that of an error, without line breaks."""
  return " ".join(str(message).split()) or type(message).__name__


def some(names: Iterable[str]) -> str:
  """Returns the first few names, sorted, and how many more there are."""
  names = sorted(names)
  more = f" and {len(names) - 3} more" if len(names) > 3 else ""
  return ", ".join(names[:3]) + more


def exit_status(command: Callable[[], object]) -> int:
  """Runs a command; bad input ends in one line on stderr.

  Returns:
    What the process exits with.
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
