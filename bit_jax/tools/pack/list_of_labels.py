"""Reads a list of images with several labels each."""

import csv
import io
import os
from collections.abc import Sequence

from bit_jax import progress
from bit_jax.data.sets import image_files
from bit_jax.data.sets.left_out import LeftOut
from bit_jax.errors import InputError, one_line
from bit_jax.storage import files, user_paths
from bit_jax.tools.pack.images import Images


def find(
  root: str,
  folders: dict[str, str],
  labels: str,
  wanted: Sequence[str],
  left_out: LeftOut,
) -> tuple[tuple[str, ...], dict[str, Images]]:
  """Finds the images that a list of labels names.

  Args:
    root: The folder that the names of images are relative to.
    folders: {split: its folder}.
    labels: The CSV file.
    wanted: The class names in order; () for sorted names.
    left_out: Counts what is passed over.

  Returns:
    (class names, {split: images}).

  Raises:
    InputError: The list cannot be read, or does not fit the images or classes.
  """
  rows = _read(labels)
  names = tuple(wanted or sorted({n for row in rows.values() for n in row}))
  if not names:
    raise InputError(f"--labels={labels}: there are no classes in it")
  number = {name: i for i, name in enumerate(names)}
  for image, row in rows.items():
    unknown = [name for name in row if name not in number]
    if unknown:
      raise InputError(
        f"--labels={labels}: {unknown[0]!r}, a class of {image}, is not in the "
        "--class_list"
      )
  splits, unlisted, num_found = {}, [], 0
  for split, folder in folders.items():
    images = splits[split] = Images(root)
    for name in image_files.images_below(root, folder, left_out):
      row = rows.get(files.normal(name))
      if row is not None:
        images.add(name, tuple(sorted(number[n] for n in row)))
      else:
        unlisted.append(name)
    num_found += len(images)
  if num_found < len(rows):
    found = {
      files.normal(name) for images in splits.values() for name in images.names
    }
    missing = next(name for name in rows if name not in found)
    raise InputError(f"--labels={labels}: {missing!r} is no image below {root}")
  for split, images in splits.items():
    if not images:
      raise InputError(f"--labels={labels} lists no image of {folders[split]}")
  if unlisted:
    progress.say(
      f"left out: {len(unlisted):,} images that {labels} does not list, such "
      f"as {unlisted[0]}"
    )
  return names, splits


def _read(path: str) -> dict[str, tuple[str, ...]]:
  """Reads a CSV file with lines `relative/path.jpg,name1;name2`.

  Returns:
    {image name: class names}; an image may have no classes.
  """
  rows = {}
  text = files.read_text(user_paths.expand(path), f"--labels={path}")
  # Without strict, a quote that is not closed would take in the rest.
  reader = csv.reader(io.StringIO(text, newline=""), strict=True)
  try:
    for row in reader:
      if not row:
        continue
      line = f"--labels={path} line {reader.line_num}"
      if len(row) != 2 or any("\n" in cell for cell in row):
        raise InputError(f"{line}: expected IMAGE,CLASS;CLASS")
      name = files.normal(os.path.normpath(row[0]))
      if name in rows:
        raise InputError(f"{line}: {name} is listed twice")
      classes = (files.normal(text.strip()) for text in row[1].split(";"))
      rows[name] = tuple(dict.fromkeys(text for text in classes if text))
  except csv.Error as e:
    raise InputError(
      f"--labels={path} line {reader.line_num}: {one_line(e)}; is a quote not "
      "closed?"
    ) from e
  return rows
