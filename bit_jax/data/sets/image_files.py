"""Finds images in folders; knows the files that systems leave there."""

import os
import pathlib
import re

from bit_jax.data.sets import own_folders
from bit_jax.data.sets.left_out import LeftOut
from bit_jax.errors import InputError

_EXTENSIONS = (
  *(".jpg", ".jpeg", ".jpe", ".jfif", ".jfi", ".jif", ".pjpeg", ".pjp"),
  *(".png", ".apng", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
)
# The formats, for messages that say what was expected.
FORMATS = "jpg, jpeg, png, webp, bmp, gif or tiff images"

# What systems leave in folders, beside names that start with a dot (.DS_Store,
# ._1.jpg, .Trashes, .Trash-1000, .nfs000, .ipynb_checkpoints, .git, .dvc,
# .@__thumb, .streams, .snapshot, ...), in lower case. The folders hold
# thumbnails, deleted files or copies of what is there already; some of them
# cannot be read.
_SYSTEM = frozenset(
  (
    # macOS.
    *("__macosx", "icon\r", "network trash folder", "temporary items"),
    # Windows.
    *("$recycle.bin", "system volume information", "msocache", "wpsystem"),
    *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini"),
    *("found.000", "picasa.ini"),
    # Linux, and Android's cards.
    *("lost+found", "__pycache__", "lost.dir"),
    # Synology.
    *("@eadir", "#recycle", "#snapshot", "@tmp", "@sharesnap", "@sharebin"),
    *("@syncdeleted", "@synologydrive", "@synoresource"),
    # QNAP, NetApp, Buffalo, Western Digital.
    *("@recycle", "@recently-snapshot", "@__thumb", "@__qini", "@transcode"),
    *("~snapshot", "_wdmc"),
  )
)
# The same in the only spelling that systems have: in another one, they may be
# classes of waste.
_SYSTEM_AS_SPELLED = frozenset(("RECYCLER", "RECYCLED", "trashbox"))
# Endings of what Windows and Synology keep beside a file: the mark of a
# download, with a colon or what copies make of it, and streams of macOS.
_MARKS = ("zone.identifier", "@synoeastream", "@synoresource")
# Windows sees a snapshot of a shared folder as @GMT-2026.01.31-12.00.00.
_SNAPSHOT = re.compile(r"@gmt-[\d.-]+")


def is_hidden(name: str) -> bool:
  """Returns True if a file or folder of this name is to be ignored."""
  lower = name.lower()
  return (
    # iCloud leaves .NAME.icloud in the place of a file that it has not
    # downloaded: an image is missing, which is worth a word.
    (name.startswith((".", "~$")) and not name.endswith(".icloud"))
    or lower in _SYSTEM
    or name in _SYSTEM_AS_SPELLED
    or lower.endswith(_MARKS)
    or bool(_SNAPSHOT.fullmatch(lower))
  )


def is_image(path: str) -> bool:
  """Returns True if a relative path names an image that is not hidden."""
  return path.lower().endswith(_EXTENSIONS) and not is_hidden_path(path)


def is_hidden_path(path: str) -> bool:
  """Returns True if a part of a relative path is to be ignored."""
  return any(map(is_hidden, path.split("/")))


def entries(folder: str) -> list[os.DirEntry[str]]:
  """Returns the entries of a folder that are not hidden, sorted by name.

  Raises:
    InputError: The folder cannot be read.
  """
  try:
    with os.scandir(folder) as found:
      shown = [entry for entry in found if not is_hidden(entry.name)]
  except OSError as error:
    raise InputError(f"{folder}: {error.strerror}") from error
  return sorted(shown, key=lambda entry: entry.name)


def is_folder(entry: os.DirEntry[str]) -> bool:
  """Returns True if an entry is a folder, or a link to one."""
  try:
    return entry.is_dir()
  # A link to itself, for example.
  except OSError:
    return False


def has_images(folder: str) -> bool:
  """Returns True if there are images in a folder, not counting subfolders."""
  return any(
    is_image(entry.name) and not is_folder(entry) for entry in entries(folder)
  )


def subfolders(folder: str, left_out: LeftOut | None = None) -> dict[str, str]:
  """Returns {name: path} of the folders in a folder, sorted by name.

  Args:
    folder: A folder of folders.
    left_out: Counts the files that stand beside the folders.

  Raises:
    InputError: The folder cannot be read.
  """
  found = {}
  for entry in entries(folder):
    if is_folder(entry):
      found[entry.name] = entry.path
    elif left_out is not None:
      left_out.add_file(entry.path, is_image(entry.name))
  if own_folders.is_work_dir(folder):
    for name in own_folders.PARTS:
      found.pop(name, None)
  return found


def images_below(root: str, folder: str, left_out: LeftOut) -> list[str]:
  """Returns the images in and below a folder, sorted, relative to `root`.

  Args:
    root: The folder that the paths are relative to.
    folder: A folder below `root`.
    left_out: Counts the files that are passed over.

  Raises:
    InputError: A folder cannot be read.
  """
  start = len(root.rstrip("/")) + 1
  # Links to these lead to the images of other classes, and around for ever.
  above = _with_parents(root) if folder != root else set()
  names, seen, pending = [], set(), [folder]
  while pending:
    current = pending.pop()
    real = os.path.realpath(current)
    if real in above:
      left_out.add_link_up(current)
      continue
    if real in seen:
      continue
    seen.add(real)
    if current == folder:
      above |= _with_parents(real)
    found, others, folders = [], [], []
    for entry in entries(current):
      if is_folder(entry):
        folders.append(entry.path)
      elif is_image(entry.name):
        found.append(entry.path[start:])
      else:
        others.append(entry.path)
    if not found and own_folders.is_own(current, real):
      left_out.add_own(current)
      continue
    names += found
    pending += folders
    for path in others:
      left_out.add_file(path)
  return sorted(names)


def _with_parents(folder: str) -> set[str]:
  """Returns a folder and all above it, without links."""
  path = pathlib.Path(os.path.realpath(folder))
  return {str(path), *map(str, path.parents)}
