"""Finds images, splits and hidden files in folders of images."""

import os

from bit_jax.errors import InputError

# The most preferred split for evaluation stands first.
EVAL_SPLITS = ("test", "validation", "valid", "val")
_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def is_hidden(name: str) -> bool:
  """Returns True if a file or folder of this name is to be ignored."""
  return name.startswith(".") or name == "__MACOSX"


def is_image(path: str) -> bool:
  """Returns True if a relative path names an image that is not hidden."""
  return path.lower().endswith(_EXTENSIONS) and not any(
    map(is_hidden, path.split("/"))
  )


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


def has_images(folder: str) -> bool:
  """Returns True if there are images in a folder, not counting subfolders."""
  return any(
    is_image(entry.name) and not entry.is_dir() for entry in entries(folder)
  )


def split_folders(root: str, expected: str) -> dict[str, str]:
  """Returns {split: folder}, train first; {} if the folder has no splits.

  The names of split folders may be in upper case. A folder of images named
  train, among folders that are no splits, is a class: the one of trains.

  Args:
    root: The folder that may be divided into splits.
    expected: The layout to expect, for the message.

  Raises:
    InputError: There are evaluation splits but no train split, or a folder
      cannot be read.
  """
  folders = {e.name.lower(): e.path for e in entries(root) if e.is_dir()}
  names = ("train", *reversed(EVAL_SPLITS))
  found = {name: folders[name] for name in names if name in folders}
  divided = len(found) == len(folders)
  if "train" in found:
    divided = divided or not has_images(found["train"])
  elif found and divided:
    others = " and ".join(os.path.basename(path) for path in found.values())
    raise InputError(
      f"{root}: there is no train folder beside {others}; {expected}"
    )
  return found if divided else {}


def images_below(root: str, folder: str) -> list[str]:
  """Returns the images in and below a folder, sorted, relative to `root`.

  Args:
    root: The folder that the paths are relative to.
    folder: A folder below `root`.

  Raises:
    InputError: A folder cannot be read.
  """
  start = len(root.rstrip("/")) + 1
  names, seen, pending = [], set(), [folder]
  while pending:
    current = pending.pop()
    # Following a link to a folder above would never end.
    real = os.path.realpath(current)
    if real in seen:
      continue
    seen.add(real)
    for entry in entries(current):
      if entry.is_dir():
        pending.append(entry.path)
      elif is_image(entry.name):
        names.append(entry.path[start:])
  return sorted(names)
