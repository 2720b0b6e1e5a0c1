"""Keeps what a run showed to people in its work directory, as log.txt."""

import contextlib
import logging as std_logging
import pathlib
import queue
import tempfile
import threading
import time
import traceback
from typing import IO, Any

from absl import logging
from etils import epath

from bit_jax import progress
from bit_jax.errors import (
  InputError,
  StoppedError,
  UnavailableError,
  UsageError,
  one_line,
)
from bit_jax.storage import remote

LOG_FILE = "log.txt"

_UPLOAD_EVERY_SECS = 30.0
# An exception that ends the command with one line; others have a traceback.
_IN_ONE_LINE = (InputError, UsageError, UnavailableError)


class LogFile:
  """A context that keeps all that `progress.say` shows, in a file once opened.

  Lines wait in a queue, and a thread of their own writes them: neither a slow
  disk nor a store delays the training loop. A log that cannot be written is
  named once, and does not end the run.
  """

  def __init__(self):
    self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    self._thread: threading.Thread | None = None
    self._stack = contextlib.ExitStack()

  def __enter__(self) -> "LogFile":
    # Warnings of the library take another way to the terminal.
    handler = std_logging.Handler(std_logging.WARNING)
    handler.emit = lambda record: self._lines.put(record.getMessage())
    logger = logging.get_absl_logger()
    logger.addHandler(handler)
    self._stack.callback(logger.removeHandler, handler)
    # A queue of this kind may be filled by a signal handler.
    self._stack.enter_context(progress.listening(self._lines.put))
    return self

  def __exit__(self, exc_type: Any, error: Any, tb: Any) -> None:
    if error is not None:
      self._lines.put(_in_words(error))
    self._stack.close()
    self._lines.put(None)
    if self._thread is not None:
      self._thread.join()

  def open(self, workdir: epath.PathLike) -> None:
    """Starts to write to WORKDIR/log.txt, after what is there already.

    Without it, nothing is written. Lines of before are not lost.
    """
    self._thread = threading.Thread(
      target=self._write, args=(epath.Path(workdir) / LOG_FILE,), daemon=True
    )
    self._thread.start()

  def _write(self, path: epath.Path) -> None:
    try:
      with remote.os_errors():
        if remote.is_remote(path):
          self._write_remote(path)
        else:
          with _appending(path) as file:
            while (line := self._lines.get()) is not None:
              file.write(f"{line}\n")
              file.flush()
    # Whatever goes wrong with it, a log is no reason to lose a run.
    except Exception as e:
      progress.say(
        f"{path}: cannot be written: {one_line(e)}; the run goes on without"
      )

  def _write_remote(self, path: epath.Path) -> None:
    """Writes to a local file and replaces the object with it now and then."""
    with tempfile.TemporaryDirectory(prefix="bit_jax-") as folder:
      local = pathlib.Path(folder) / LOG_FILE
      if remote.exists(path):
        local.write_bytes(path.read_bytes())
      with _appending(local) as file:
        line, due = "", time.monotonic()
        while line is not None:
          with contextlib.suppress(queue.Empty):
            line = self._lines.get(timeout=_UPLOAD_EVERY_SECS)
            file.write("" if line is None else f"{line}\n")
          file.flush()
          if line is None or time.monotonic() >= due:
            due = time.monotonic() + _UPLOAD_EVERY_SECS
            try:
              with remote.os_errors():
                path.write_bytes(local.read_bytes())
            except OSError:
              # The store may be there again next time.
              if line is None:
                raise


def _appending(path: epath.PathLike) -> IO[str]:
  # Names of files may have bytes that are no text.
  return open(path, "a", encoding="utf-8", errors="backslashreplace")


def _in_words(error: BaseException) -> str:
  """Returns what the command shows of the exception that ends it."""
  if isinstance(error, StoppedError):
    return one_line(error)
  if isinstance(error, _IN_ONE_LINE):
    return f"error: {one_line(error)}"
  return "".join(traceback.format_exception(error)).rstrip()
