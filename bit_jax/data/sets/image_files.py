"""What counts as an image, a split and a hidden file in folders of images."""

import os

from bit_jax.errors import InputError

# What is evaluated on stands first.
EVAL_SPLITS = ("test", "validation", "valid", "val")
_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def is_hidden(name: str) -> bool:
  """Tells whether a file or folder is to be passed over."""
  return name.startswith(".") or name == "__MACOSX"


def is_image(path: str) -> bool:
  """Tells whether a relative path names an image that is not hidden."""
  return path.lower().endswith(_EXTENSIONS) and not any(
    map(is_hidden, path.split("/"))
  )


def entries(folder: str) -> list[os.DirEntry[str]]:
  """Returns what is in a folder and not hidden, sorted by name.

  Raises:
    InputError: the folder cannot be read.
  """
  try:
    with os.scandir(folder) as found:
      shown = [entry for entry in found if not is_hidden(entry.name)]
  except OSError as error:
    raise InputError(f"{folder}: {error.strerror}") from error
  return sorted(shown, key=lambda entry: entry.name)


def has_images(folder: str) -> bool:
  """Tells whether a folder itself holds images."""
  return any(
    is_image(entry.name) and not entry.is_dir() for entry in entries(folder)
  )


def split_folders(root: str, expected: str) -> dict[str, str]:
  """Returns the path of each split's folder, train first; {} without splits.

  The names of split folders may be in upper case. Among folders that are no
  splits, a folder of images named train is a class that shows trains.

  Args:
    root: a folder.
    expected: what should be there, for the message.

  Raises:
    InputError: there are evaluation splits but no train, or a folder cannot be
      read.
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
  """Returns the images in and below a folder, relative to `root`, sorted."""
  start = len(root.rstrip("/")) + 1
  names, seen, pending = [], set(), [folder]
  while pending:
    current = pending.pop()
    # A link back to a folder above would never end.
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
