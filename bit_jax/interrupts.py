"""Ends a command quietly if Ctrl-C comes before its work has begun.

The first seconds of a command are imports, in which a KeyboardInterrupt would
print pages of other people's code. It may even be swallowed there.
"""

import contextlib
import os
import signal
import sys
from types import FrameType

# Standard for a program that SIGINT ends: 128 + 2.
INTERRUPTED = 130
_ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))


def quiet_start() -> None:
  """Lets Ctrl-C end this process at once, if it is a command of bit_jax.

  Programs that import bit_jax keep their own way with signals, and so do the
  processes that a command starts.
  """
  # Ignored by nohup, or handled by somebody else: left alone.
  default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
  if default and _is_command(sys.orig_argv):
    with contextlib.suppress(ValueError):  # Not in the main thread.
      signal.signal(signal.SIGINT, _end)


def begin_work() -> None:
  """Makes Ctrl-C raise KeyboardInterrupt again, for clean-ups to run."""
  if signal.getsignal(signal.SIGINT) is _end:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame: FrameType | None) -> None:
  del number, frame
  os._exit(INTERRUPTED)


def _is_command(argv: list[str]) -> bool:
  """Returns True for `python -m bit_jax.X`, `-m scripts.X` and `bit_jax`."""
  if len(argv) > 1 and os.path.basename(argv[1]) in ("bit_jax", "bit_jax.exe"):
    return os.path.isfile(argv[1])
  module = argv[argv.index("-m") + 1 :][:1] if "-m" in argv else []
  top = module[0].partition(".")[0] if module else ""
  # `scripts` is a name that others use; ours are run from the checkout.
  return top == "bit_jax" or (
    top == "scripts" and os.path.realpath(".") == _ROOT
  )
