"""Errors that end a command in one clear line, and exit codes.

| code | meaning                                                            |
|------|--------------------------------------------------------------------|
| 0    | done                                                               |
| 1    | bad input; the same command would fail again                       |
| 2    | unknown flag, config key or argument                               |
| 70   | a defect                                                           |
| 74   | a fault of the machine, another host or a service: a full disk, a  |
|      | lost network; the same command may succeed later                   |
| 75   | stopped by a signal and saved; the same command resumes            |
| 130  | interrupted with nothing to save                                   |

The launchers run the command again after 75, and a few times after 70 and 74.
"""

import difflib
import errno
import os
import re
import socket
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator

from bit_jax import interrupts, progress


class InputError(ValueError):
  """Bad input from the user; the command prints the message and exits 1."""


class UsageError(ValueError):
  """An unknown flag, config key or argument; the command exits 2."""


class StoppedError(RuntimeError):
  """The run was stopped by a signal and its state is saved; exit code 75."""


class UnavailableError(RuntimeError):
  """The machine or a service failed; a retry may work; exit code 74."""


CRASHED = 70
# "Input/output error" in sysexits.h; launchers run the command again.
UNAVAILABLE = 74
# "Temporary failure" in sysexits.h; launchers run the command again.
STOPPED = 75

# The system's errors that do not depend on what the user asked for: the same
# command succeeds once the disk, the network or the load is better. All others,
# such as "no such file", "permission denied" and "file too large", are input.
_MACHINE_ERRNOS = frozenset(
  getattr(errno, name)
  for name in (
    *("ENOSPC", "EDQUOT"),
    *("EIO", "EREMOTEIO", "EUCLEAN", "ENOMEDIUM", "ESHUTDOWN"),
    *("ESTALE", "EBUSY", "ENOLCK", "EAGAIN", "EINTR"),
    *("EMFILE", "ENFILE", "ENOMEM", "ENOBUFS"),
    *("ETIMEDOUT", "EPIPE", "ECOMM", "ENOLINK"),
    *("ECONNRESET", "ECONNREFUSED", "ECONNABORTED", "ENOTCONN", "ENETRESET"),
    *("ENETDOWN", "ENETUNREACH", "EHOSTDOWN", "EHOSTUNREACH", "ENONET"),
  )
  if hasattr(errno, name)  # Not all systems have all of them.
)
# Libraries in other languages raise errors of their own with these texts:
# TensorStore, which Orbax writes with, Rust's as in safetensors, and C's.
_OS_ERROR_CODE = re.compile(r"\bos_error_code='(\d+)'|\(os error (\d+)\)")
_MACHINE_TEXTS = frozenset(os.strerror(code) for code in _MACHINE_ERRNOS)
_MACHINE_STATUS = re.compile(
  r"\s*(UNAVAILABLE|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED|ABORTED)\b"
)


def is_machine_fault(error: BaseException) -> bool:
  """Returns True if an error, or what caused it, is a fault of the machine.

  Such as a full disk, an I/O error, a lost network, too many open files: the
  same command may succeed later. Everything else is taken for a fault of the
  input or of the program.
  """
  return any(map(_is_machine_fault, _with_causes(error)))


def _with_causes(error: BaseException) -> Iterator[BaseException]:
  """Yields an error and all that it was raised from, each once."""
  waiting, seen = [error], set()
  while waiting:
    error = waiting.pop()
    if id(error) in seen:  # An error that is raised again may be in a circle.
      continue
    seen.add(id(error))
    yield error
    # urllib keeps the cause in `reason`.
    causes = (error.__cause__, error.__context__, getattr(error, "reason", 0))
    waiting += [cause for cause in causes if isinstance(cause, BaseException)]


def _is_machine_fault(error: BaseException) -> bool:
  if isinstance(error, UnavailableError | MemoryError | TimeoutError):
    return True
  if isinstance(error, socket.gaierror):
    return error.errno == socket.EAI_AGAIN
  if isinstance(error, OSError) and error.errno is not None:
    return error.errno in _MACHINE_ERRNOS
  if isinstance(error, ConnectionError):
    return True
  if isinstance(error, InputError | UsageError | SyntaxError):
    return False  # The text may quote the user's.
  text = str(error)
  if code := _OS_ERROR_CODE.search(text):
    return int(code[1] or code[2]) in _MACHINE_ERRNOS
  if any(known in text for known in _MACHINE_TEXTS):
    return True
  return isinstance(error, ValueError) and bool(_MACHINE_STATUS.match(text))


def _is_out_of_device_memory(error: BaseException) -> bool:
  # By name: this module is imported before JAX.
  return type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError") and (
    "RESOURCE_EXHAUSTED" in str(error)
  )


def failure(message: str, cause: BaseException) -> Exception:
  """Returns the error to raise for a failed access to a file or a service.

  Args:
    message: One line that names the file or the service, and the reason.
    cause: The error that was caught.

  Returns:
    UnavailableError for a fault of the machine, which is to be tried again,
    else InputError.
  """
  kind = UnavailableError if is_machine_fault(cause) else InputError
  return kind(message)


def one_line(message: object) -> str:
  """Returns a message, or an error's message, without line breaks."""
  return " ".join(str(message).split()) or type(message).__name__


def some(names: Iterable[str]) -> str:
  """Returns the first three names, sorted, and the number of others."""
  names = sorted(names)
  more = f" and {len(names) - 3} more" if len(names) > 3 else ""
  return ", ".join(names[:3]) + more


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
  """Returns the known names closest to a misspelt one, the closest first.

  Case and the signs between words do not count.

  Args:
    name: What somebody wrote.
    known: All names that exist.
    count: Most names to return; one that differs in case and signs alone is
      returned without others.
  """
  plain: dict[str, str] = {}
  for one in known:
    plain.setdefault(_plain(one), one)
  if _plain(name) in plain:
    return [plain[_plain(name)]]
  found = difflib.get_close_matches(_plain(name), plain, count, 0.7)
  return [plain[one] for one in found]


def _plain(name: str) -> str:
  return re.sub(r"[\W_]", "", name.lower())


def did_you_mean(names: Iterable[str]) -> str:
  """Returns '; did you mean A or B?' for the end of a message; '' for none."""
  text = " or ".join(dict.fromkeys(names))
  return f"; did you mean {text}?" if text else ""


def exit_status(command: Callable[[], object]) -> int:
  """Runs a command; prints bad input as one line on stderr.

  Args:
    command: The command, without arguments; its result is ignored.

  Returns:
    The exit code of the process.
  """
  interrupts.begin_work()
  try:
    # What says nothing of itself is not silent for long either.
    with progress.activity("working"):
      command()
  except (InputError, UsageError, UnavailableError) as e:
    print(f"error: {one_line(e)}", file=sys.stderr)
    # Also what was taken for bad input where it was caught: a file of the user
    # that cannot be read because the disk fails.
    if is_machine_fault(e):
      return UNAVAILABLE
    return 1 if isinstance(e, InputError) else 2
  except StoppedError as e:
    print(one_line(e), file=sys.stderr)
    return STOPPED
  except Exception as e:
    if _is_out_of_device_memory(e):
      print(
        f"error: out of memory: {one_line(e)}; fewer images at once need less: "
        "--config.optim.accum_steps=8 (or more) in training, "
        "--config.eval.batch_size in evaluation",
        file=sys.stderr,
      )
      return 1
    traceback.print_exc()
    return UNAVAILABLE if is_machine_fault(e) else CRASHED
  except KeyboardInterrupt:
    return interrupts.INTERRUPTED
  return 0
