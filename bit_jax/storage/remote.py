"""Work directories and files in an object store, gs://BUCKET/RUN, with gcsfs.

Unlike a file, an object cannot be appended to, becomes visible only when it is
complete, and costs a round trip on every access.
"""

import contextlib
import os
import pathlib
import shutil
import tempfile
import threading
from collections.abc import Iterator

from etils import epath
from fsspec import config as fsspec_config

from bit_jax import progress
from bit_jax.errors import InputError, failure, one_line

_SCHEME = "gs://"
_COPY_EVERY_SECS = 30.0
# Packages used by fsspec that raise errors other than OSError too.
_CLIENTS = ("gcsfs", "google", "aiohttp", "requests")
# Their errors for a connection that fails; others may be the user's fault.
_CONNECTION_ERRORS = {
  *("ClientConnectionError", "ClientPayloadError", "ConnectionError"),
  *("Timeout", "ChunkedEncodingError", "TransportError"),
}
_HTTP_TRY_AGAIN = {408, 429, *range(500, 600)}


def is_remote(path: epath.PathLike) -> bool:
  """Returns True if a path is in an object store."""
  return os.fspath(path).startswith(_SCHEME)


def absolute(path: epath.PathLike) -> epath.Path:
  """Returns a path that does not depend on the current folder."""
  path = epath.Path(path)
  # epath's resolve() would make a local path of a URL.
  return path if is_remote(path) else path.resolve()


def check(path: epath.PathLike, what: str = "--workdir") -> None:
  """Checks that a path, if it is a URL, can be accessed.

  To be called before the first access to a store, because it turns off fsspec's
  cache of listings, in which files written by other hosts (and by Orbax) never
  show up.

  Args:
    path: A URL, or a local path, which is not checked.
    what: The flag or key that names the path, for messages.

  Raises:
    InputError: gcsfs is not installed, the store does not answer or denies
      access, or the URL is not a gs:// one.
    UnavailableError: The store cannot be reached at the moment.
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
    raise failure(f"{what}={path} cannot be used: {one_line(e)}", e) from e


@contextlib.contextmanager
def os_errors() -> Iterator[None]:
  """Converts errors of the packages that access a store to OSError.

  Those that may pass, such as a lost connection, become a ConnectionError.
  """
  try:
    yield
  except Exception as e:
    # Compared by name, because these packages need not be installed.
    package = type(e).__module__.partition(".")[0]
    if package not in _CLIENTS:
      raise
    if _may_pass(e):
      raise ConnectionError(one_line(e)) from e
    if isinstance(e, OSError):
      raise
    raise OSError(one_line(e)) from e


def _may_pass(error: Exception) -> bool:
  """Returns True if a client's error may be gone when it is tried again."""
  if any(kind.__name__ in _CONNECTION_ERRORS for kind in type(error).__mro__):
    return True
  response = getattr(error, "response", None)
  codes = (getattr(error, "code", None), getattr(error, "status", None))
  codes += (getattr(response, "status_code", None),)
  return any(str(code) in map(str, _HTTP_TRY_AGAIN) for code in codes)


def exists(path: epath.PathLike) -> bool:
  """Returns True if a file or folder is there.

  Path.exists takes what cannot be looked at, on a disk that fails for a moment,
  for missing: a run would begin anew in its own work directory.

  Raises:
    InputError: It may not be looked at, or its name is not usable.
    UnavailableError: The disk or the store fails.
  """
  path = epath.Path(path)
  try:
    if is_remote(path):
      with os_errors():
        # In a store, folders are only prefixes of names.
        return path.exists() or path.is_dir()
    os.stat(path)
  except (FileNotFoundError, NotADirectoryError):
    return False
  except (OSError, ValueError) as e:
    raise failure(f"{path}: cannot be read: {one_line(e)}", e) from e
  return True


@contextlib.contextmanager
def writing(path: epath.PathLike) -> Iterator[None]:
  """Names the file in errors of writing, which the system's own do not.

  Raises:
    InputError: The file cannot be written.
    UnavailableError: Likewise, for a reason that may pass: a full disk.
  """
  try:
    with os_errors():
      yield
  except OSError as e:
    reason = e.strerror or one_line(e)
    raise failure(f"{path}: cannot be written: {reason}", e) from e


@contextlib.contextmanager
def local_copy(path: epath.Path) -> Iterator[epath.Path]:
  """Yields a local copy of a remote file, or the file itself if it is local.

  Args:
    path: An existing file.

  Raises:
    OSError: The file cannot be fetched.
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
  """A local folder whose files are copied to a store, each as a whole.

  Files that grow, such as metrics, are appended to in the local folder. A
  thread copies those that changed, because an object can only be replaced.

  Attributes:
    folder: The local folder, empty at first.
  """

  def __init__(
    self, path: epath.PathLike, every_secs: float = _COPY_EVERY_SECS
  ):
    """Starts the thread.

    Args:
      path: The folder in the store.
      every_secs: Seconds between checks for changed files.
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
    """Asks the thread to copy changed files now; does not wait for it."""
    self._asked.set()

  def close(self) -> None:
    """Copies the files changed since the last time; removes the local folder.

    Raises:
      InputError: A file cannot be copied; the local folder is kept.
      UnavailableError: Likewise, for a reason that may pass.
    """
    self._closing = True
    self._asked.set()
    # The last copy is made in this thread, which its error must reach.
    self._thread.join()
    try:
      with os_errors():
        self._copy()
    except Exception as e:
      raise failure(
        f"{self._path}: cannot be written: {one_line(e)}; the metrics are kept "
        f"in {self.folder}",
        e,
      ) from e
    shutil.rmtree(self.folder)

  def _run(self) -> None:
    while True:
      self._asked.wait(self._every_secs)
      # Cleared before copying, so that a request made meanwhile is not lost.
      self._asked.clear()
      if self._closing:
        return
      try:
        self._copy()
        self._is_failing = False
      # A store that fails for a while must not end the run: the thread tries
      # again, and prints only the first of several failures.
      except Exception as e:
        if not self._is_failing:
          progress.say(
            f"{self._path}: cannot be written: {one_line(e)}; trying again"
          )
        self._is_failing = True

  def _copy(self) -> None:
    for file in sorted(self.folder.iterdir()):
      # The version is taken before the content: if the file grows in between,
      # it is copied again next time.
      stat = file.stat()
      version = stat.st_size, stat.st_mtime_ns
      if self._copied.get(file.name) != version:
        (self._path / file.name).write_bytes(file.read_bytes())
        self._copied[file.name] = version
