"""Reads folders of images, `PATH/CLASS/IMAGE`, as sources."""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from bit_jax.data import decode
from bit_jax.data.sets import (
  class_folders,
  folder_scan,
  image_files,
  layout,
  own_folders,
)
from bit_jax.data.sets.left_out import LeftOut
from bit_jax.data.source import Source
from bit_jax.errors import InputError
from bit_jax.storage import user_paths

_HELD_OUT_FRACTION = 0.2
_CLASSES = f"expected PATH/CLASS/IMAGE, and {image_files.FORMATS}"
_LAYOUT = (
  "expected PATH/CLASS/IMAGE, or PATH/train/CLASS/IMAGE with val and test "
  f"folders beside train, and {image_files.FORMATS}"
)


class HeldOutGoneError(InputError):
  """Files that a run held out for evaluation are not there any more.

  Attributes:
    files: All of them, relative to the folder.
  """

  def __init__(self, message: str, files: Collection[str]):
    super().__init__(message)
    self.files = frozenset(files)


@dataclasses.dataclass(frozen=True)
class FolderSplits:
  """The splits of an image folder.

  Attributes:
    splits: Sources by name: `train`, and those of `layout.FOLDER_EVAL_SPLITS`
      that the folder has, or else a held-out `test`.
    held_out: The files held out of train, relative to the folder; empty if the
      folder has an evaluation split. Passing them to `load` again holds out the
      same files; files added since are trained on.
    skipped: The files left out because they are no sound images, each with its
      path and the reason.
  """

  splits: dict[str, Source]
  held_out: list[str]
  skipped: list[str] = dataclasses.field(default_factory=list)


def load(
  path: str,
  *,
  seed: int = 0,
  held_out: Collection[str] = (),
  cache_dir: str = "",
  nested_classes: bool = False,
  skip_bad: bool = False,
) -> FolderSplits:
  """Returns the splits of the image folder `path`.

  A class is a folder; its images are the files in it and in the folders below
  it that end as images do, in the order of their names. Classes are numbered in
  the order of their names; if the folder is divided into splits, in that of
  `train`. What `image_files.is_hidden` names is ignored, and a warning counts
  whatever else is not used. Without a split beside `train`, a fifth of each
  class, at least one image, is held out as `test`. The beginning and the end
  of every file are checked.

  Args:
    path: The folder; nothing is written to it.
    seed: Seeds the choice of held-out images.
    held_out: The files to hold out, from an earlier `FolderSplits.held_out`; if
      empty, they are chosen.
    cache_dir: Folder that caches the scan of the files; '' for no cache.
    nested_classes: Accepts classes whose images are all in several folders
      below the class folder.
    skip_bad: Leaves out files that are no sound images.

  Raises:
    InputError: The folder is not laid out like this, or in a way that can be
      read in two ways, an image cannot be read, or a class has too few images.
    HeldOutGoneError: A file of `held_out` is gone.
  """
  root = class_folders.find_root(path, _LAYOUT)
  # The layout of a run that is resumed was settled when it began.
  strict = not held_out
  left_out = LeftOut(root)
  folders = layout.split_folders(root, _LAYOUT, left_out, strict=strict) or {
    "train": root
  }
  files: dict[str, dict[str, list[str]]] = {}
  for split, folder in folders.items():
    expected = _LAYOUT
    if split != "train":
      expected += f"; to use train alone, give {folders['train']}"
    files[split] = class_folders.find(root, folder, expected, left_out)
    if strict:
      class_folders.check_names(folder, files[split])
      class_folders.check_pairs(root, folder, files[split].values())
      if not nested_classes:
        class_folders.check_nesting(root, folder, files[split])
  files = class_folders.check(path, folders, files, left_out)
  _report(path, left_out)
  class_names = tuple(files["train"])
  names = [n for by_class in files.values() for n in _flatten(by_class)]
  scan = folder_scan.scan(
    root, names, _cache_outside(root, cache_dir), skip_bad=skip_bad
  )
  # Before images are held out and counted: what is left is the set.
  files = _without(path, files, scan.skipped)

  chosen: list[str] = []
  if len(files) == 1:
    chosen = sorted(
      _check_held_out(path, files["train"], scan.skipped, held_out)
      if held_out
      else _choose_held_out(path, files["train"], seed)
    )
    files = _hold_out(files["train"], set(chosen))
    for name, images in files["train"].items():
      if not images:
        raise InputError(f"{path}: class {name!r} has no images left to train")
    if not any(files["test"].values()):
      raise InputError(f"{path}: none of the images held out is left")

  image_px = decode.median_size(
    [scan.files[name].size for name in _flatten(files["train"])]
  )
  splits = {
    split: _make_source(
      f"folder:{path} {split}",
      root,
      by_class,
      class_names,
      image_px,
      scan.files,
    )
    for split, by_class in files.items()
  }
  skipped = [
    f"{os.path.join(root, n)}: {scan.skipped[n]}" for n in scan.skipped
  ]
  return FolderSplits(splits, chosen, skipped)


def load_all(path: str, *, cache_dir: str = "") -> Source:
  """Returns all images of a folder of classes as one source.

  Every folder in `path` is a class, even one named train or one without any
  image. Otherwise, classes, images and their order are those of `load`.

  Args:
    path: The folder; nothing is written to it.
    cache_dir: Folder that caches the scan of the files; '' for no cache.

  Raises:
    InputError: The folder is not laid out like this, has no images, or one of
      them cannot be read.
  """
  root = class_folders.find_root(path, _CLASSES)
  left_out = LeftOut(root)
  by_class = class_folders.find(root, root, _CLASSES, left_out)
  if not any(by_class.values()):
    raise InputError(
      f"{path}: there are no images in the class folders{left_out.holds()}"
    )
  _report(path, left_out)
  scanned = folder_scan.scan(
    root, _flatten(by_class), _cache_outside(root, cache_dir)
  ).files
  image_px = decode.median_size([file.size for file in scanned.values()])
  return _make_source(
    f"folder:{path}", root, by_class, tuple(by_class), image_px, scanned
  )


@dataclasses.dataclass(frozen=True)
class _Examples:
  """Encoded images read from files, with their labels and paths."""

  root: str
  names: Sequence[str]
  labels: Sequence[int]

  def __len__(self) -> int:
    return len(self.names)

  def __getitem__(self, index: int) -> dict[str, Any]:
    path = os.path.join(self.root, self.names[index])
    try:
      with open(path, "rb") as file:
        data = file.read()
    except OSError as error:
      raise InputError(f"{path}: {error.strerror}") from error
    return {"image": data, "label": self.labels[index], "name": path}


def _make_source(
  name: str,
  root: str,
  by_class: Mapping[str, Sequence[str]],
  class_names: tuple[str, ...],
  image_px: tuple[int, int],
  scanned: Mapping[str, folder_scan.Scanned],
) -> Source:
  # Numbers are those of train's classes; another split may lack some of them.
  number = {class_name: i for i, class_name in enumerate(class_names)}
  labels = [number[key] for key, files in by_class.items() for _ in files]
  examples = _Examples(root, _flatten(by_class), labels)
  return Source(
    name=name,
    examples=examples,
    class_names=class_names,
    image_px=image_px,
    fingerprint=_fingerprint(examples, scanned),
    read_labels=functools.partial(np.array, labels, np.int64),
    files=lambda: [os.path.join(root, name) for name in examples.names],
  )


def _fingerprint(
  examples: _Examples, scanned: Mapping[str, folder_scan.Scanned]
) -> str:
  # Names, sizes and labels only: reading the content of every image at each
  # start would take too long.
  digest = hashlib.sha256()
  for name, label in zip(examples.names, examples.labels, strict=True):
    digest.update(os.fsencode(f"\n{name}\0"))
    digest.update(f"{scanned[name].num_bytes} {label}".encode())
  return digest.hexdigest()[:16]


def _report(path: str, left_out: LeftOut) -> None:
  if text := left_out.text():
    logging.warning("%s: left out: %s", path, text)


def _cache_outside(root: str, cache_dir: str) -> str:
  """Returns the cache's folder, or '' if it lies among the images."""
  real = os.path.realpath(user_paths.expand(cache_dir))
  return (
    "" if own_folders.is_inside(real, os.path.realpath(root)) else cache_dir
  )


def _choose_held_out(
  path: str, train: Mapping[str, Sequence[str]], seed: int
) -> list[str]:
  chosen = []
  for label, (class_name, names) in enumerate(train.items()):
    if len(names) < 2:
      raise InputError(
        f"{path}: class {class_name!r} has 1 image; it takes 2 to hold one out "
        "for evaluation"
      )
    count = max(1, round(_HELD_OUT_FRACTION * len(names)))
    rng = np.random.default_rng([seed, label])
    chosen += [names[i] for i in rng.permutation(len(names))[:count]]
  return chosen


def _without(
  path: str,
  files: Mapping[str, Mapping[str, Sequence[str]]],
  skipped: Collection[str],
) -> dict[str, dict[str, list[str]]]:
  """Returns the files without those that are left out."""
  left = {
    split: {
      class_name: [name for name in names if name not in skipped]
      for class_name, names in by_class.items()
    }
    for split, by_class in files.items()
  }
  for class_name, names in left["train"].items():
    if not names:
      raise InputError(
        f"{path}: all images of class {class_name!r} are left out, such as "
        f"{files['train'][class_name][0]}"
      )
  for split, by_class in left.items():
    if not any(by_class.values()):
      raise InputError(f"{path}: all images of {split} are left out")
  return left


def _check_held_out(
  path: str,
  train: Mapping[str, Sequence[str]],
  skipped: Collection[str],
  held_out: Collection[str],
) -> Collection[str]:
  # What is left out stays in the list, lest it be trained on once repaired.
  missing = sorted(set(held_out).difference(_flatten(train), skipped))
  if missing:
    more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
    raise HeldOutGoneError(
      f"{os.path.join(path, missing[0])}: this image was held out for "
      f"evaluation when the run began, and is gone{more}; "
      "--config.resume_changed=true goes on without",
      missing,
    )
  return held_out


def _hold_out(
  train: Mapping[str, Sequence[str]], chosen: Collection[str]
) -> dict[str, dict[str, list[str]]]:
  def select(is_chosen: bool) -> dict[str, list[str]]:
    return {
      class_name: [name for name in names if (name in chosen) == is_chosen]
      for class_name, names in train.items()
    }

  return {"train": select(False), "test": select(True)}


def _flatten(by_class: Mapping[str, Sequence[str]]) -> list[str]:
  return [name for names in by_class.values() for name in names]
