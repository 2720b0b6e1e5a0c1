"""Lists the images of class folders, and checks the classes."""

import collections
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from bit_jax.data.sets import image_files, layout
from bit_jax.data.sets.left_out import LeftOut, what_is
from bit_jax.errors import InputError, did_you_mean, nearest, some
from bit_jax.storage import user_paths
from bit_jax.storage.files import normal

_NESTED = (
  "to take each of them as one class, add --config.data.nested_classes=true "
  "(--nested_classes for bit_jax.tools)"
)


def find_root(path: str, expected: str, name: str = "") -> str:
  """Returns the folder that a user gives.

  Args:
    path: The folder.
    expected: The layout to expect, for the message.
    name: Name of the folder in the message; '' for `folder:PATH`.

  Raises:
    InputError: There is none.
  """
  root = user_paths.expand(path)
  root = root.rstrip("/") or root[:1]
  if not os.path.isdir(root):
    if not path:
      raise InputError(f"folder: without a path; {expected}")
    problem = "is not a folder" if os.path.exists(root) else "does not exist"
    kind = what_is(root) if os.path.isfile(root) else ""
    problem += f" ({kind})" if kind else ""
    raise InputError(
      f"{name or f'folder:{path}'} {problem}; {expected}"
      f"{did_you_mean(_beside(root))}"
    )
  return root


def _beside(root: str) -> list[str]:
  """Returns the folder beside one that is not there whose name is close."""
  parent, name = os.path.split(root)
  if not os.path.isdir(parent or "."):
    return []
  near = nearest(name, os.listdir(parent or "."), 1)
  return [f"folder:{os.path.join(parent, found)}" for found in near]


def find(
  root: str, folder: str, expected: str, left_out: LeftOut
) -> dict[str, list[str]]:
  """Returns {class: its images}, as sorted paths relative to `root`.

  Args:
    root: The folder that the paths are relative to.
    folder: The folder of the class folders.
    expected: The layout to expect, for the message.
    left_out: Counts what is passed over.

  Raises:
    InputError: There are no class folders, or one cannot be read.
  """
  beside = LeftOut(root)
  by_class = {}
  for name, path in image_files.subfolders(folder, beside).items():
    passed_over = LeftOut(root)
    images = image_files.images_below(root, path, passed_over)
    # A folder of work directories is no class.
    if images or not passed_over.own:
      by_class[name] = images
    left_out.merge(passed_over)
  if not by_class:
    problem = (
      "the images are not in class folders"
      if image_files.has_images(folder)
      else f"there are no class folders{beside.holds()}"
    )
    raise InputError(f"{folder}: {problem}; {expected}")
  left_out.merge(beside)
  return by_class


def check(
  path: str,
  folders: Mapping[str, str],
  files: Mapping[str, Mapping[str, list[str]]],
  left_out: LeftOut,
) -> dict[str, dict[str, list[str]]]:
  """Checks that all splits have images of train's classes.

  Args:
    path: The data set, for messages.
    folders: {split: its folder}.
    files: {split: {class: its images}}.
    left_out: Counts the class folders without images.

  Returns:
    `files` with the classes of all splits spelled as in train.

  Raises:
    InputError: A class of train or a split has no images, train has one class,
      or another split has a class that train has not.
  """
  train = files["train"]
  for name, images in train.items():
    if not images:
      held = _holds(os.path.join(folders["train"], name))
      raise InputError(
        f"{path}: class folder {name!r} has no images in it{held}"
      )
  if len(train) < 2:
    name = next(iter(train))
    only = os.path.join(folders["train"], name)
    todo = f"give {only}" if len(folders) == 1 else f"move them out of {only}"
    raise InputError(
      f"{path}: {name!r} is the only class folder; if the folders in it are "
      f"the classes, {todo}"
    )
  checked = {"train": dict(train)}
  for split, by_class in files.items():
    if not any(by_class.values()):
      raise InputError(f"{path}: {split} has no images{_holds(folders[split])}")
    if split == "train":
      continue
    same = match(path, split, by_class, train, folders["train"])
    checked[split] = {same[name]: images for name, images in by_class.items()}
    for name, images in by_class.items():
      if not images:
        left_out.add_empty(os.path.join(folders[split], name))
  return checked


def _holds(folder: str) -> str:
  left_out = LeftOut(folder)
  image_files.images_below(folder, folder, left_out)
  return left_out.holds()


def check_names(where: str, names: Iterable[str]) -> None:
  """Refuses two class folders with one name in two spellings of Unicode.

  Args:
    where: The folder of the class folders, for the message.
    names: The classes.

  Raises:
    InputError: There are two.
  """
  spelled: dict[str, str] = {}
  for name in names:
    other = spelled.setdefault(normal(name), name)
    if other != name:
      raise InputError(
        f"{where}: two class folders have the name {name!r}, spelled with "
        "different Unicode characters; put their images into one of them"
      )


def check_pairs(root: str, where: str, files: Iterable[Sequence[str]]) -> None:
  """Refuses folders of images and of what is marked in them as two classes.

  Sets for detection and segmentation have images/ and masks/, labels/ or
  annotations/ side by side: Oxford's pets at the top, others in each class.

  Args:
    root: The folder that the images' paths are relative to.
    where: The folder of the class folders.
    files: The images of each class.

  Raises:
    InputError: There are both in one folder.
  """
  folders = {os.path.dirname(name) for names in files for name in names}
  # A folder of labels need not hold any image.
  below = {f"{where}/{name}" for name in image_files.subfolders(where)}
  paths = {f"{root}/{name}" for name in folders} | below
  by_parent: dict[str, set[str]] = {}
  for path in paths:
    while len(path) > len(where):
      path, _, name = path.rpartition("/")
      by_parent.setdefault(path, set()).add(name)
  for parent, names in sorted(by_parent.items()):
    images = sorted(filter(layout.is_of_images, names))
    marks = sorted(filter(layout.is_of_marks, names))
    if images and marks:
      of_images = os.path.join(parent, images[0])
      todo = f"sort the images into class folders, without {marks[0]}"
      # They may be in tars.
      if os.path.isdir(of_images) and image_files.subfolders(of_images):
        todo = f"if the folders in it are the classes, give {of_images}"
      raise InputError(
        f"{parent}: {images[0]} and {marks[0]} are not two classes, but images "
        f"and what is marked in them; expected PATH/CLASS/IMAGE: {todo}"
      )


def check_nesting(
  root: str, where: str, classes: Mapping[str, Sequence[str]]
) -> None:
  """Refuses classes whose images are all in several folders of their own.

  A class folder may hold one folder with all its images, and may hold folders
  beside images. But folders of folders alone may be splits, domains or groups
  of classes.

  Args:
    root: The folder that the images' paths are relative to.
    where: The folder of the class folders.
    classes: {class: its images}.

  Raises:
    InputError: There is such a class, and not only one class.
  """
  start = len(os.path.join(where, "")) - len(os.path.join(root, ""))
  nested = {}
  for name, images in classes.items():
    on_the_way, several = _folders_of(images, start + len(name) + 1)
    if several:
      nested[name] = several
    # A split of its own, or one with a folder of a class beside it.
    elif on_the_way and (
      layout.split_of(name) or {*on_the_way} & (classes.keys() - {name})
    ):
      nested[name] = on_the_way
  # `check` says what to do about one class.
  if not nested or len(classes) < 2:
    return
  name = next(iter(nested))
  counts = collections.Counter(f for found in nested.values() for f in found)
  common = {f for f, count in counts.items() if count > 1}
  shared = common | (counts.keys() & classes.keys())
  if common and all(map(layout.split_of, common)):
    raise InputError(
      f"{where}: {some(nested)} hold splits ({some(common)}), which are "
      f"expected above the classes, as {min(common)}/{name}"
    )
  if shared:
    verb = "holds" if len(nested) == 1 else "hold"
    raise InputError(
      f"{where}: {some(nested)} {verb} no images, but folders of the same "
      f"names ({some(shared)}); if these are the classes, name the folders "
      f"above them train, val or test, or give one that holds them, such as "
      f"{os.path.join(where, name)}; {_NESTED}"
    )
  raise InputError(
    f"{where}: class folder {name!r} holds no images, but folders that do "
    f"({some(nested[name])}); if these are the classes, give "
    f"{os.path.join(where, name)} or move them up; {_NESTED}"
  )


def _folders_of(
  images: Sequence[str], start: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
  """Returns the folders below a class folder that lead to its images.

  Returns:
    (the folders that each hold nothing but the next, the several folders in the
    last one); both are () if there are images in the class folder itself.
  """
  if any("/" not in image[start:] for image in images):
    return (), ()
  paths, on_the_way = [image[start:] for image in images], []
  while paths and all("/" in path for path in paths):
    first = dict.fromkeys(path.partition("/")[0] for path in paths)
    if len(first) > 1:
      return tuple(on_the_way), tuple(first)
    on_the_way += first
    paths = [path.partition("/")[2] for path in paths]
  return tuple(on_the_way), ()


def match(
  path: str,
  split: str,
  names: Iterable[str],
  train: Iterable[str],
  alone: str = "",
) -> dict[str, str]:
  """Returns {class folder of a split: the class of train that it is}.

  Two spellings of one Unicode text are one class.

  Args:
    path: The data set, for messages.
    split: Name of the split.
    names: The class folders of the split.
    train: The classes of train.
    alone: The folder of train, for the message; '' if it is no way round.

  Raises:
    InputError: A class is not in train.
  """
  exact = {normal(name): name for name in train}
  found = {}
  for name in names:
    same = exact.get(normal(name))
    if same is None:
      near = [c for c in train if _loose(c) and _loose(c) == _loose(name)]
      hint = f"; to use train alone, give {alone}" if alone else ""
      if near:
        hint = f", where {near[0]!r} is; rename one of them"
      raise InputError(
        f"{path}: class {name!r} is in {split} but not train{hint}"
      )
    found[name] = same
  return found


def _loose(name: str) -> str:
  text = unicodedata.normalize("NFKC", name).casefold()
  return re.sub(r"[\W_]+", "", text).removesuffix("s")
