"""Checks every image of a folder, reads its size, and caches the result.

It happens before training starts, so that files that are no images, are cut
short or are empty are all named in the run's first seconds, and not one by one
in its third epoch. Of each file only the beginning and the end are read; damage
in the middle is found when the image is decoded.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import os
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import PIL
from absl import logging

from bit_jax import progress
from bit_jax.data import decode, jpeg
from bit_jax.data.formats import limits
from bit_jax.errors import InputError
from bit_jax.storage import user_paths

# More threads than cores: on a network file system, most of it is waiting.
_NUM_THREADS = 32
_CHUNK = 256
# Files named in a message.
_NAMED = 5
# Increase it when the check or the sizes change: files of other formats, such
# as the first, which had sizes alone, are read as no cache at all.
_FORMAT = 2
_SKIP = "--config.data.skip_bad=true"


class Scanned(NamedTuple):
  """The result for one file.

  Attributes:
    mtime_ns: Time of the last change.
    num_bytes: Size of the file.
    height: In pixels as decoded.
    width: In pixels as decoded.
    note: What is wrong with it, though it can be used; or ''.
    problem: Why it cannot be used; or ''.
  """

  mtime_ns: int
  num_bytes: int
  height: int
  width: int
  note: str = ""
  problem: str = ""

  @property
  def size(self) -> tuple[int, int]:
    """(height, width) in pixels as decoded."""
    return self.height, self.width


@dataclasses.dataclass(frozen=True)
class Scan:
  """The result for a folder.

  Attributes:
    files: The images that can be used, by name.
    skipped: Why the others cannot, by name.
  """

  files: dict[str, Scanned]
  skipped: dict[str, str]


def scan(
  root: str,
  names: Sequence[str],
  cache_dir: str = "",
  *,
  skip_bad: bool = False,
) -> Scan:
  """Checks image files, reading their beginnings and ends if not cached.

  Args:
    root: The folder that the names are relative to; nothing is written to it.
    names: The image files.
    cache_dir: Folder of the cache file; '' for no cache. A cached result is
      valid while the image's modification time and size in bytes are the same.
    skip_bad: Leaves out files that are no sound images.

  Raises:
    InputError: A file cannot be read; or, without skip_bad, is no sound image.
      The message counts all such files and names the first of `names`.
  """
  cache_file = _cache_file(root, cache_dir) if cache_dir else None
  known = _load(cache_file) if cache_file else {}
  # Files that cannot be read may be sound: another run may be able to.
  unreadable: dict[str, str] = {}

  def scan_chunk(start: int) -> dict[str, Scanned]:
    found = {}
    for name in names[start : start + _CHUNK]:
      try:
        found[name] = _scan_file(root, name, known.get(name))
      except OSError as error:
        unreadable[name] = error.strerror or str(error)
    return found

  scanned: dict[str, Scanned] = {}
  pool = concurrent.futures.ThreadPoolExecutor(_NUM_THREADS)
  try:
    with progress.activity(f"checking {root}", len(names), "files") as doing:
      for chunk in pool.map(scan_chunk, range(0, len(names), _CHUNK)):
        scanned |= chunk
        doing.add(_CHUNK)
  finally:
    pool.shutdown(cancel_futures=True)
  if cache_file and scanned != known:
    _save(cache_file, scanned)

  broken = {name: file.problem for name, file in scanned.items()}
  broken = {name: problem for name, problem in broken.items() if problem}
  failed = unreadable if skip_bad else unreadable | broken
  if failed:
    ordered = {name: failed[name] for name in names if name in failed}
    raise InputError(_message(root, ordered, len(names), bool(unreadable)))
  _report(root, scanned, broken)
  files = {name: file for name, file in scanned.items() if not file.problem}
  return Scan(files, broken)


def _scan_file(root: str, name: str, known: Scanned | None) -> Scanned:
  path = os.path.join(root, name)
  stat = os.stat(path)
  # The limit may have been higher when the file was scanned.
  if (
    known
    and (stat.st_mtime_ns, stat.st_size) == known[:2]
    and not limits.too_large(*known.size)
  ):
    return known
  try:
    checked = decode.check(path, path)
  except InputError as error:
    problem = str(error).removeprefix(f"{path}: ")
    return Scanned(stat.st_mtime_ns, stat.st_size, 0, 0, problem=problem)
  return Scanned(
    stat.st_mtime_ns, stat.st_size, *checked.size, note=checked.note
  )


def _message(
  root: str, failed: Mapping[str, str], total: int, unreadable: bool
) -> str:
  named = [f"{os.path.join(root, n)}: {failed[n]}" for n in failed][:_NAMED]
  it = "it" if len(failed) == 1 else "them"
  advice = f"repair or remove {it}, or leave {it} out with {_SKIP}"
  if unreadable:
    advice = f"files that cannot be read are not left out by {_SKIP} either"
  if len(failed) == 1:
    return f"{named[0]}; {advice}"
  more = len(failed) - len(named)
  rest = f"; and {more:,} more" if more else ""
  return (
    f"{root}: {len(failed):,} of {total:,} images cannot be used: "
    f"{'; '.join(named)}{rest}; {advice}"
  )


def _report(
  root: str, scanned: Mapping[str, Scanned], broken: Mapping[str, str]
) -> None:
  """Warns once of the images that are used or left out with a fault."""
  noted = {name: file.note for name, file in scanned.items() if file.note}
  for what, faults in (("used nevertheless", noted), ("left out", broken)):
    if faults:
      named = [f"{os.path.join(root, n)}: {faults[n]}" for n in faults][:_NAMED]
      more = len(faults) - len(named)
      rest = f"; and {more:,} more" if more else ""
      logging.warning(
        "%s: %d of %d images have a fault and are %s: %s%s",
        *(root, len(faults), len(scanned), what, "; ".join(named), rest),
      )
  for name in noted:
    decode.warned(os.path.join(root, name))


def _cache_file(root: str, cache_dir: str) -> pathlib.Path:
  key = hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:16]
  return user_paths.local(cache_dir) / f"folder-{key}.json"


def _judges() -> list[str]:
  """Returns what an image that cannot be used may depend on."""
  versions = [cv2.__version__, PIL.__version__, jpeg.version()]
  return [*versions, os.environ.get(limits.OPTION, "")]


def _load(cache_file: pathlib.Path) -> dict[str, Scanned]:
  try:
    stored = json.loads(cache_file.read_text())
    if stored["format"] != _FORMAT:
      return {}
    known = {}
    for name, entry in stored["files"].items():
      mtime_ns, num_bytes, height, width = map(int, entry[:4])
      known[name] = Scanned(
        mtime_ns, num_bytes, height, width, *map(str, entry[4:])
      )
    if stored["judges"] != _judges():
      known = {name: file for name, file in known.items() if not file.problem}
    return known
  # If the cache is missing or damaged, all files are read again.
  except (OSError, ValueError, TypeError, AttributeError, KeyError):
    return {}


def _save(cache_file: pathlib.Path, scanned: dict[str, Scanned]) -> None:
  stored = {
    "format": _FORMAT,
    "judges": _judges(),
    # Nearly all images have neither note nor problem.
    "files": {
      name: file if file.note or file.problem else file[:4]
      for name, file in scanned.items()
    },
  }
  temporary = ""
  try:
    cache_file.parent.mkdir(parents=True, exist_ok=True)
    # Several hosts may write the same cache at once, each to a file of its own.
    with tempfile.NamedTemporaryFile(
      "w", dir=cache_file.parent, delete=False
    ) as file:
      temporary = file.name
      json.dump(stored, file)
    os.replace(temporary, cache_file)
  except OSError as error:
    logging.warning("The scan is not cached: %s", error)
    if temporary:
      pathlib.Path(temporary).unlink(missing_ok=True)
