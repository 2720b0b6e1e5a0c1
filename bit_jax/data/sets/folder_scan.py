"""Reads the size of every image of a folder, and caches the result.

All headers are read before training starts, so that a file that is no image
ends the run in its first seconds and not in its third epoch.
"""

import concurrent.futures
import hashlib
import json
import os
import pathlib
import tempfile
from collections.abc import Sequence
from typing import NamedTuple

from absl import logging

from bit_jax.data import decode
from bit_jax.errors import InputError
from bit_jax.storage import user_paths

# More threads than cores: on a network file system, most of it is waiting.
_NUM_THREADS = 32
_CHUNK = 256


class Scanned(NamedTuple):
  """The result for one image file; height and width in pixels as decoded."""

  mtime_ns: int
  num_bytes: int
  height: int
  width: int


def scan(
  root: str, names: Sequence[str], cache_dir: str = ""
) -> dict[str, Scanned]:
  """Returns {name: size and time} of image files; reads headers if not cached.

  Args:
    root: The folder that the names are relative to; nothing is written to it.
    names: The image files.
    cache_dir: Folder of the cache file; '' for no cache. A cached result is
      valid while the image's modification time and size in bytes are the same.

  Raises:
    InputError: A file cannot be read or is no image; the message names the
      first such file of `names`.
  """
  cache_file = _cache_file(root, cache_dir) if cache_dir else None
  known = _load(cache_file) if cache_file else {}

  def scan_chunk(start: int) -> list[Scanned]:
    return [
      _scan_file(root, name, known.get(name))
      for name in names[start : start + _CHUNK]
    ]

  pool = concurrent.futures.ThreadPoolExecutor(_NUM_THREADS)
  try:
    chunks = pool.map(scan_chunk, range(0, len(names), _CHUNK))
    scanned = dict(
      zip(names, (file for chunk in chunks for file in chunk), strict=True)
    )
  finally:
    pool.shutdown(cancel_futures=True)
  if cache_file and scanned != known:
    _save(cache_file, scanned)
  return scanned


def _scan_file(root: str, name: str, known: Scanned | None) -> Scanned:
  path = os.path.join(root, name)
  try:
    stat = os.stat(path)
  except OSError as error:
    raise InputError(f"{path}: {error.strerror}") from error
  if known and (stat.st_mtime_ns, stat.st_size) == known[:2]:
    return known
  if not stat.st_size:
    raise InputError(f"{path}: the file is empty")
  size = decode.image_size(path, path)
  return Scanned(stat.st_mtime_ns, stat.st_size, *size)


def _cache_file(root: str, cache_dir: str) -> pathlib.Path:
  key = hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:16]
  return user_paths.local(cache_dir) / f"folder-{key}.json"


def _load(cache_file: pathlib.Path) -> dict[str, Scanned]:
  try:
    entries = json.loads(cache_file.read_text())
    return {name: Scanned(*map(int, entry)) for name, entry in entries.items()}
  # If the cache is missing or damaged, all headers are read again.
  except (OSError, ValueError, TypeError, AttributeError):
    return {}


def _save(cache_file: pathlib.Path, scanned: dict[str, Scanned]) -> None:
  temporary = ""
  try:
    cache_file.parent.mkdir(parents=True, exist_ok=True)
    # Several hosts may write the same cache at once, each to a file of its own.
    with tempfile.NamedTemporaryFile(
      "w", dir=cache_file.parent, delete=False
    ) as file:
      temporary = file.name
      json.dump(scanned, file)
    os.replace(temporary, cache_file)
  except OSError as error:
    logging.warning("The scan is not cached: %s", error)
    if temporary:
      pathlib.Path(temporary).unlink(missing_ok=True)
