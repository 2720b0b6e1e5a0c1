"""Reads the size of every image of a folder once, and remembers it.

Before training starts each header is read, so that a file that is no image ends
the run in its first seconds and not in its third epoch.
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

# Headers on a network file system are waited for, not computed.
_NUM_THREADS = 32
_CHUNK = 256


class Scanned(NamedTuple):
  """What a scan knows of an image file; height and width as decoded."""

  mtime_ns: int
  num_bytes: int
  height: int
  width: int


def scan(
  root: str, names: Sequence[str], cache_dir: str = ""
) -> dict[str, Scanned]:
  """Returns what is known of each file, reading headers where it must.

  Args:
    root: the folder the names are relative to. Nothing is written to it.
    names: image files.
    cache_dir: where a file remembers the result; an entry holds as long as the
      modification time and the size of its image do. '': nowhere.

  Raises:
    InputError: a file cannot be read or is no image; the first such of `names`.
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
  return pathlib.Path(cache_dir).expanduser() / f"folder-{key}.json"


def _load(cache_file: pathlib.Path) -> dict[str, Scanned]:
  try:
    entries = json.loads(cache_file.read_text())
    return {name: Scanned(*map(int, entry)) for name, entry in entries.items()}
  # A cache that is missing or damaged costs a scan, nothing more.
  except (OSError, ValueError, TypeError, AttributeError):
    return {}


def _save(cache_file: pathlib.Path, scanned: dict[str, Scanned]) -> None:
  temporary = ""
  try:
    cache_file.parent.mkdir(parents=True, exist_ok=True)
    # Several hosts may scan the same folder into the same cache at once.
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
