"""Work directories in an object store: gs://BUCKET/RUN, through gcsfs.

An object cannot be appended to, appears only once it is written as a whole, and
each access is a round trip.
"""

import contextlib
import os
import pathlib
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator

from etils import epath
from fsspec import config as fsspec_config

from bit_jax.errors import InputError, one_line

_SCHEME = "gs://"
_COPY_EVERY_SECS = 30.0
# Packages below fsspec whose errors are not always OSError.
_CLIENTS = ("gcsfs", "google", "aiohttp", "requests")


def is_remote(path: epath.PathLike) -> bool:
  """Tells whether a path is in an object store."""
  return os.fspath(path).startswith(_SCHEME)


def absolute(path: epath.PathLike) -> epath.Path:
  """Returns a path that does not depend on the current folder."""
  path = epath.Path(path)
  # epath's resolve() makes a local path of any other.
  return path if is_remote(path) else path.resolve()


def check(path: epath.PathLike, what: str = "--workdir") -> None:
  """Checks that a path can be used if it is a URL.

  Call it before the first use of a store: it turns off the cache of listings,
  in which what other hosts (and Orbax) write never shows up.

  Args:
    path: a URL, or a local path, which is not looked at.
    what: names the path's origin in messages.

  Raises:
    InputError: gcsfs is not installed, the store does not answer or refuses, or
      it is a URL of another kind.
  """
  if not is_remote(path):
    if "://" in os.fspath(path):
      raise InputError(f"{what}={path}: expected a folder or gs://BUCKET/RUN")
    return
  options = fsspec_config.conf.setdefault("gcs", {})
  options.setdefault("use_listings_cache", False)
  try:
    with os_errors():
      epath.Path(path).exists()
  except ImportError as e:
    raise InputError(f"{what}={path}: pip install gcsfs") from e
  except (OSError, ValueError) as e:
    raise InputError(f"{what}={path} cannot be used: {one_line(e)}") from e


@contextlib.contextmanager
def os_errors() -> Iterator[None]:
  """Turns what the packages that talk to a store raise into OSError."""
  try:
    yield
  except Exception as e:
    package = type(e).__module__.partition(".")[0]
    if package not in _CLIENTS or isinstance(e, OSError):
      raise
    raise OSError(one_line(e)) from e


@contextlib.contextmanager
def local_copy(path: epath.Path) -> Iterator[epath.Path]:
  """Gives a local file with the same content: the file itself where it is one.

  Raises:
    OSError: the file cannot be fetched.
  """
  if not is_remote(path):
    yield path
    return
  with tempfile.TemporaryDirectory(prefix="bit_jax-") as folder:
    copy = epath.Path(folder) / path.name
    with os_errors():
      path.copy(copy)
    yield copy


class Mirror:
  """A local folder whose files a thread copies to a store, each as a whole.

  Attributes:
    folder: the local one, empty at first.
  """

  def __init__(
    self, path: epath.PathLike, every_secs: float = _COPY_EVERY_SECS
  ):
    """Starts the thread.

    Args:
      path: the folder in the store.
      every_secs: between looks for files that have changed.
    """
    self._path = epath.Path(path)
    self.folder = pathlib.Path(tempfile.mkdtemp(prefix="bit_jax-"))
    self._every_secs = every_secs
    self._copied: dict[str, tuple[int, int]] = {}
    self._is_failing = False
    self._asked, self._closing = threading.Event(), False
    self._thread = threading.Thread(target=self._run, daemon=True)
    self._thread.start()

  def request(self) -> None:
    """Lets what has changed be copied soon, without waiting for it."""
    self._asked.set()

  def close(self) -> None:
    """Copies what has changed since the last time and removes the local folder.

    Raises:
      InputError: it cannot be copied; the local folder stays.
    """
    self._closing = True
    self._asked.set()
    self._thread.join()
    try:
      self._copy()
    except Exception as e:
      raise InputError(
        f"{self._path}: cannot be written: {one_line(e)}; the metrics are kept "
        f"in {self.folder}"
      ) from e
    shutil.rmtree(self.folder)

  def _run(self) -> None:
    while True:
      self._asked.wait(self._every_secs)
      self._asked.clear()  # First: a request from here on is not lost.
      if self._closing:
        return
      try:
        self._copy()
        self._is_failing = False
      except Exception as e:
        if not self._is_failing:
          print(
            f"{self._path}: cannot be written: {one_line(e)}; trying again",
            file=sys.stderr,
            flush=True,
          )
        self._is_failing = True

  def _copy(self) -> None:
    for file in sorted(self.folder.iterdir()):
      # Taken first: what is written meanwhile is copied next time.
      stat = file.stat()
      version = stat.st_size, stat.st_mtime_ns
      if self._copied.get(file.name) != version:
        (self._path / file.name).write_bytes(file.read_bytes())
        self._copied[file.name] = version
