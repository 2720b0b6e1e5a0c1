"""Recognizes the folders that are splits; refuses what can be both."""

import os
import re
from collections.abc import Mapping, Sequence

from absl import logging

from bit_jax.data.sets import image_files, own_folders
from bit_jax.data.sets.left_out import LeftOut
from bit_jax.errors import InputError, some

# The most preferred split for evaluation stands first.
EVAL_SPLITS = ("test", "validation", "valid", "val")
# The same for folders of images, whose names are chosen more freely.
FOLDER_EVAL_SPLITS = (*EVAL_SPLITS, "dev", "eval", "holdout")
_ORDER = ("train", *reversed(FOLDER_EVAL_SPLITS))

# {word in a folder's name: the split that it means}.
_WORDS = {split: split for split in _ORDER} | {
  "training": "train",
  "trn": "train",
  "testing": "test",
  "tst": "test",
  "development": "dev",
  "evaluation": "eval",
  "heldout": "holdout",
}
# Words that say nothing more beside the word of a split.
_FILLERS = frozenset(
  (
    *("set", "sets", "data", "dataset", "split", "folder", "dir", "directory"),
    *("image", "images", "img", "imgs", "photo", "photos", "picture"),
    *("pictures", "pics", "sample", "samples", "files", "examples"),
  )
)
# Names of folders of images, and of what is marked in them.
_IMAGES = frozenset(
  (
    *("image", "images", "img", "imgs", "jpegimages", "photo", "photos"),
    *("picture", "pictures", "frames", "rgb"),
  )
)
_MARKS = frozenset(
  (
    *("annotation", "annotations", "annot", "annots", "label", "labels"),
    *("mask", "masks", "trimaps", "segmentation", "segmentations", "xmls"),
    *("segmentationclass", "segmentationobject", "groundtruth", "bboxes"),
  )
)
_NUMBERS = re.compile(r"[\d ]+")
_FUSED = re.compile(
  rf"({'|'.join(_WORDS)})({'|'.join(sorted(_FILLERS | _MARKS))})"
)


def split_of(name: str) -> tuple[str, str] | None:
  """Returns the split that a folder's name means, and the rest of the name.

  The word of a split may stand anywhere, but must be a whole word: `Training`
  and `test set` are splits without a rest, `cats_train` and `CUB-train` have
  the rests `cats` and `cub`, and `tested` and `trains` are no splits.

  Returns:
    (split, rest), or None.
  """
  text = re.sub(
    r"(?<=[a-z])(?=[A-Z])|(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])", " ", name
  )
  text = re.sub(r"\b(hold|held)[\W_]*out\b", "holdout", text.casefold())
  words = []
  for word in re.findall(r"[^\W_]+", text):
    fused = _FUSED.fullmatch(word)
    words += fused.groups() if fused else [word]
  found = [word for word in words if word in _WORDS]
  if len(found) != 1:
    return None
  rest = [w for w in words if w not in _WORDS and w not in _FILLERS]
  return _WORDS[found[0]], " ".join(rest)


def is_of_images(name: str) -> bool:
  """Returns True if a folder has a name such as `images` or `JPEGImages`."""
  return name.casefold() in _IMAGES


def is_of_marks(name: str) -> bool:
  """Returns True if a folder has a name such as `masks` or `Ground-Truth`."""
  return re.sub(r"[\W_]+", "", name.casefold()) in _MARKS


def split_folders(
  root: str, expected: str, left_out: LeftOut, *, strict: bool = True
) -> dict[str, str]:
  """Returns {split: folder}, train first; {} if the folder has no splits.

  Splits are the folders with a split's name, or with the name of one set and a
  split's (`split_of`). A folder of images named train, among folders that are
  no splits, is a class: the one of trains.

  Args:
    root: The folder that may be divided into splits.
    expected: The layout to expect, for the message.
    left_out: Counts the folders and files beside the splits.
    strict: Refuses a folder that can be read in two ways.

  Raises:
    InputError: There are evaluation splits but no train split, two folders are
      the same split, or a folder cannot be read or can be read in two ways.
  """
  beside = LeftOut(root)
  folders = image_files.subfolders(root, beside)
  groups: dict[str, dict[str, list[str]]] = {}
  for name in folders:
    split, rest = split_of(name) or ("", "")
    if split:
      groups.setdefault(rest, {}).setdefault(split, []).append(name)
  expected = f"{expected}{beside.holds()}"
  groups = _without_numbers(groups)
  chosen = _choose(root, folders, groups, expected, strict=strict)
  if not chosen:
    return {}
  for split, names in chosen.items():
    if len(names) > 1:
      raise InputError(
        f"{root}: {' and '.join(names)} are both named as the {split} split; "
        "rename one of them"
      )
  found = {s: folders[chosen[s][0]] for s in _ORDER if s in chosen}
  used = set(found.values())
  found = {s: _unpacked(path) for s, path in found.items()}
  others = {}
  for name, path in folders.items():
    if own_folders.is_own(path, os.path.realpath(path)):
      beside.add_own(path)
    elif path not in used:
      others[name] = path
  if strict and list(found) == ["train"]:
    _check_beside_train(root, found["train"], others)
  left_out.merge(beside)
  for path in others.values():
    left_out.add_folder(path)
  return found


def _unpacked(folder: str) -> str:
  """Returns a folder, or the one of the same name that is all it holds.

  Archives that hold a folder are unpacked to one of the archive's name, so that
  many sets have seg_train/seg_train/CLASS.
  """
  while True:
    below = image_files.subfolders(folder)
    name = os.path.basename(folder)
    if list(below) != [name] or image_files.has_images(folder):
      return folder
    folder = below[name]


def _without_numbers(
  groups: dict[str, dict[str, list[str]]],
) -> dict[str, dict[str, list[str]]]:
  """Takes numbers as no part of a set's name where that is no contradiction.

  01-train, 02-val and train_80, test_20 are splits of one set. But train_0,
  val_0, train_1 and val_1 are not, nor is test1, which competitions call their
  images without labels, beside train.
  """
  numbered = {
    rest: splits for rest, splits in groups.items() if _NUMBERS.fullmatch(rest)
  }
  found = [split for splits in numbered.values() for split in splits]
  if "" in groups or len(set(found)) < len(found):
    return groups
  merged = {
    s: names for splits in numbered.values() for s, names in splits.items()
  }
  others = {rest: s for rest, s in groups.items() if rest not in numbered}
  return others | ({"0": merged} if merged else {})


def _choose(
  root: str,
  folders: Mapping[str, str],
  groups: Mapping[str, Mapping[str, list[str]]],
  expected: str,
  *,
  strict: bool,
) -> Mapping[str, list[str]]:
  """Returns {split: names of its folders}; {} if there are no splits."""

  def are_divided(splits: Mapping[str, Sequence[str]]) -> bool:
    """Returns True if train holds folders, or those that other splits hold."""
    train = [folders[name] for name in splits.get("train", ())]
    if not all(map(image_files.has_images, train)):
      return True
    # Some images beside its class folders do not make it a class.
    below = [
      {name for path in names for name in image_files.subfolders(folders[path])}
      for split, names in splits.items()
      if split != "train"
    ]
    return any(
      image_files.subfolders(path).keys() & b for path in train for b in below
    )

  plain = groups.get("", {})
  all_splits = sum(map(len, plain.values())) == len(folders)
  if "train" in plain and (all_splits or are_divided(plain)):
    return plain
  if strict and "train" in plain and len(plain) > 1:
    names = some(name for names in plain.values() for name in names)
    # Images and masks that are split, and no class: `class_folders` says that
    # class folders are missing.
    if all(split_of(name) or is_of_marks(name) for name in folders):
      return plain
    logging.warning(
      "%s: %s hold images and no folders, so they are taken for classes",
      *(root, names),
    )
  if plain and all_splits:
    ordered = sorted(plain, key=_ORDER.index)
    others = " and ".join(name for split in ordered for name in plain[split])
    raise InputError(
      f"{root}: there is no train folder beside {others}; {expected}"
    )
  named = {
    rest: splits
    for rest, splits in groups.items()
    if rest
    and len(splits) > 1
    and "train" in splits
    # Images in cars_train and cars_test are those of splits without classes.
    and (strict or are_divided(splits))
  }
  if len(named) > 1:
    raise InputError(
      f"{root}: there are the splits of several sets ({some(named)}); give a "
      "folder that holds those of one set"
    )
  return next(iter(named.values()), {})


def _check_beside_train(
  root: str, train: str, others: Mapping[str, str]
) -> None:
  """Refuses folders that may be evaluation splits, or classes, beside train."""
  name_of_train = os.path.basename(train)
  only = f"to use {name_of_train} alone, give {train}"
  classes = image_files.subfolders(train)
  for name, path in others.items():
    if shared := classes.keys() & image_files.subfolders(path).keys():
      raise InputError(
        f"{root}: {name} holds the same folders as {name_of_train} "
        f"({some(shared)}), but no split has this name; name it val or test to "
        f"evaluate on it; {only}"
      )
  images = [
    name for name, path in others.items() if image_files.has_images(path)
  ]
  if len(images) > 1 and classes:
    raise InputError(
      f"{root}: {name_of_train} holds folders ({some(classes)}), as a split "
      f"does, and {some(images)} beside it hold images, as classes do; "
      f"{only}, or move its images out of these folders to make it a class"
    )
