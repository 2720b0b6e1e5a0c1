"""Finds the images to pack: in class folders, in class tars, or listed."""

import collections
import os
import re
from collections.abc import Mapping, Sequence

from bit_jax import progress
from bit_jax.data import class_names
from bit_jax.data.sets import class_folders, image_files, layout
from bit_jax.data.sets.left_out import LeftOut
from bit_jax.errors import InputError, some
from bit_jax.storage import files
from bit_jax.tools.pack import list_of_labels, tars
from bit_jax.tools.pack.images import Images

# Archives that may hold a class, but have no random access or no end.
_OTHER_ARCHIVE = re.compile(
  r"\.(tar\.(gz|bz2|xz|zst|lz4|lzma|z|part|partial|crdownload|download)|tgz"
  r"|tbz2?|txz|tzst|zip|rar|7z)$",
  re.IGNORECASE,
)
_LAYOUT = (
  "expected SRC/CLASS/IMAGE or SRC/CLASS.tar, or SRC/train/CLASS with val and "
  f"test folders beside train, and {image_files.FORMATS}"
)


def find(
  src: str,
  *,
  split: str = "",
  class_list: str = "",
  labels: str = "",
  allow_missing: bool = False,
  nested_classes: bool = False,
) -> tuple[tuple[str, ...], dict[str, Images]]:
  """Finds the images of SRC.

  Args:
    src: A folder of class folders or class tars, possibly divided into train,
      val and test folders. With `labels`, a folder of images.
    split: Name of the only split of a folder without split folders; '' for
      train.
    class_list: A file with the class names in order; '' for sorted names.
    labels: A CSV file of image names, relative to src, and their classes; ''
      for class folders or tars.
    allow_missing: Accepts classes of `class_list` that have no images.
    nested_classes: Accepts classes whose images are all in several folders
      below the class folder.

  Returns:
    (class names, {split: images}).

  Raises:
    InputError: src, class_list or labels cannot be used.
  """
  root = os.path.abspath(class_folders.find_root(src, _LAYOUT, src))
  wanted = class_names.read(class_list, "--class_list") if class_list else ()
  repeated = [n for n, k in collections.Counter(wanted).items() if k > 1]
  if repeated:
    raise InputError(f"--class_list={class_list}: {repeated[0]!r} is repeated")
  left_out = LeftOut(root)
  folders = _split_folders(root, split, left_out, strict=not labels)
  if labels:
    names, splits = list_of_labels.find(root, folders, labels, wanted, left_out)
  else:
    paths = {
      split: _class_paths(root, path, left_out)
      for split, path in folders.items()
    }
    found = set(next(iter(paths.values())))
    if wanted:
      class_names.check(
        sorted({*found, *wanted} if allow_missing else found),
        sorted(wanted),
        f"{src} and --class_list={class_list}",
      )
    names = tuple(wanted or sorted(found))
    splits = _find_classes(root, paths, names, allow_missing, left_out)
    for split, images in splits.items():
      class_folders.check_pairs(root, folders[split], [images.names])
    if not nested_classes:
      for split, images in splits.items():
        _check_nesting(root, folders[split], names, images)
  if text := left_out.text():
    progress.say(f"left out: {text}")
  for name in names:
    # TFDS stores the names in a file, one per line, and strips them on reading.
    if name != name.strip() or len(name.splitlines()) != 1 or _undecoded(name):
      raise InputError(f"{src}: {name!r} cannot be the name of a class")
  return names, splits


def _split_folders(
  root: str, split: str, left_out: LeftOut, *, strict: bool
) -> dict[str, str]:
  """Returns {split: folder}; `split` names the only one, '' for train."""
  found = layout.split_folders(root, _LAYOUT, left_out, strict=strict)
  if split and found:
    raise InputError(
      f"--split={split}: {root} has {', '.join(found)} folders, which are the "
      "splits; leave --split out or give one of these folders"
    )
  return found or {split or "train": root}


def _class_paths(root: str, folder: str, left_out: LeftOut) -> dict[str, str]:
  """Returns {class name: path of its folder or tar}."""
  beside, archives = LeftOut(root), []
  paths = list(image_files.subfolders(folder).values())
  for entry in image_files.entries(folder):
    if image_files.is_folder(entry):
      continue
    if entry.name.lower().endswith(".tar"):
      paths.append(entry.path)
    else:
      beside.add_file(entry.path, image_files.is_image(entry.name))
      if _OTHER_ARCHIVE.search(entry.name):
        archives.append(entry.path)
  found: dict[str, str] = {}
  for path in paths:
    name = os.path.basename(path)
    if not os.path.isdir(path):
      name = os.path.splitext(name)[0]
    name = files.normal(name)
    if name in found:
      raise InputError(
        f"{folder}: class {name!r} is there twice: as "
        f"{os.path.basename(found[name])} and as {os.path.basename(path)}"
      )
    found[name] = path
  if archives and any(path.lower().endswith(".tar") for path in paths):
    raise InputError(
      f"{archives[0]}: only uncompressed tars can be read without unpacking, "
      "and whole ones; unpack it to a tar or a folder, or move it elsewhere"
    )
  _check_tars(folder, found)
  left_out.merge(beside)
  if not found:
    problem = f"there are no class folders and no class tars{beside.holds()}"
    if image_files.has_images(folder):
      problem = "the images are not in class folders"
    raise InputError(f"{folder}: {problem}; {_LAYOUT}")
  return found


def _check_tars(folder: str, found: Mapping[str, str]) -> None:
  """Refuses tars of splits, such as train.tar and val.tar, as classes."""
  splits: dict[str, dict[str, str]] = {}
  for name, path in found.items():
    split, rest = layout.split_of(name) or ("", "")
    if split and not os.path.isdir(path):
      splits.setdefault(rest, {})[split] = os.path.basename(path)
  for tars_of in splits.values():
    if len(tars_of) > 1 and "train" in tars_of:
      raise InputError(
        f"{folder}: {some(tars_of.values())} are named as splits, and one tar "
        f"is taken for one class; unpack them to folders train, val and test, "
        f"with a folder or a tar for each class; {_LAYOUT}"
      )


def _find_classes(
  root: str,
  paths: Mapping[str, Mapping[str, str]],
  names: Sequence[str],
  allow_missing: bool,
  left_out: LeftOut,
) -> dict[str, Images]:
  """Finds the images of each split.

  Args:
    root: The folder that image names are relative to.
    paths: {split: {class name: path of its folder or tar}}.
    names: The class names in order.
    allow_missing: Accepts classes without images.
    left_out: Counts what is passed over.

  Returns:
    {split: images}.
  """
  first = next(iter(paths))
  if len(names) < 2:
    raise InputError(
      f"{root}: {names[0]!r} is the only class; if the folders in it are the "
      "classes, give that folder"
    )
  number = {name: i for i, name in enumerate(names)}
  splits = {split: Images(root) for split in paths}
  for split, images in splits.items():
    same = class_folders.match(root, split, paths[split], names)
    what = f"listing the images of {split}"
    with progress.activity(what, len(paths[split]), "classes") as doing:
      for name, path in paths[split].items():
        before, passed_over = len(images), LeftOut(root)
        _add_class(images, path, number[same[name]], passed_over)
        left_out.merge(passed_over)
        if len(images) == before:
          if split == first and not allow_missing:
            raise InputError(
              f"{path}: there are no images in it{passed_over.holds()}"
            )
          left_out.add_empty(path)
        doing.add()
    if not images:
      raise InputError(f"{root}: no images in {split}; {_LAYOUT}")
  return splits


def _add_class(
  images: Images, path: str, label: int, left_out: LeftOut
) -> None:
  if os.path.isdir(path):
    for name in image_files.images_below(images.root, path, left_out):
      images.add(name, label)
    return
  prefix = os.path.splitext(os.path.relpath(path, images.root))[0]
  tar = len(images.tars)
  images.tars.append(path)
  found, others = tars.find(path)
  for name, (offset, size) in found.items():
    images.add(f"{prefix}/{name}", label, (tar, offset, size))
  for name in others:
    left_out.add_name(f"{os.path.relpath(path, images.root)}/{name}")


def _check_nesting(
  root: str, folder: str, names: Sequence[str], images: Images
) -> None:
  by_class: dict[str, list[str]] = {name: [] for name in names}
  for name, label in zip(images.names, images.labels, strict=True):
    by_class[names[int(label)]].append(name)
  class_folders.check_nesting(root, folder, by_class)


def _undecoded(name: str) -> bool:
  return any("\udc80" <= character <= "\udcff" for character in name)
