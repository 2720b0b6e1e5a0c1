"""Matches the classes of an image set with the outputs of a classifier.

Classes are matched by name. Where the names differ, a label map lists the right
outputs: a JSON file {class of the set: "name; name" or [name, ...]}, or the
folder `mappings` of ObjectNet's distribution.
"""

import collections
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

from bit_jax.data import class_names
from bit_jax.errors import InputError, some
from bit_jax.storage import files, user_paths
from bit_jax.storage.files import normal

_WORDNET_ID = re.compile(r"n\d{8}")


def match_classes(
  own: Sequence[str], outputs: Sequence[str], label_map: str, what: str
) -> tuple[list[list[int]], bool]:
  """Finds the outputs that are right for each class of a set.

  Args:
    own: Names of the set's classes.
    outputs: The name of each output; for a classifier without names the numbers
      `0`, `1`, ... as text. A class matches the output of the same name, or
      else the one that shares a synonym: a name may list synonyms, as
      ImageNet's `tench, Tinca tinca`.
    label_map: A label map, file or folder, as the module describes. Classes
      that it does not name have no right output. '' matches by name.
    what: Name of the set for messages.

  Returns:
    (right outputs of each class, possibly none, assumed). `assumed` is True if
    the outputs have no names and were assumed to be in the order of the set's
    classes or, with ObjectNet's folder, of ImageNet's classes.

  Raises:
    InputError: No class matches, a name could mean several outputs, or the
      label map cannot be read or names a class that the classifier lacks.
  """
  own, outputs = tuple(map(normal, own)), tuple(map(normal, outputs))
  in_order = [[i] for i in range(len(outputs))]
  nameless = all(name == str(i) for i, name in enumerate(outputs))
  if own == outputs and not label_map:
    return in_order, False
  names, assumed, wanted = outputs, False, {name: [name] for name in own}
  if label_map:
    path = user_paths.local(label_map)
    wanted = _read(path)
    if path.is_dir() and nameless:
      names, assumed = _imagenet_names(path, len(outputs)), True
    elif path.is_dir() and all(map(_WORDNET_ID.fullmatch, outputs)):
      in_tfds = {name: i for i, name in enumerate(sorted(outputs))}
      imagenet = _imagenet_names(path, len(outputs))
      names = [imagenet[in_tfds[name]] for name in outputs]
  find = _make_find(names)
  rights = collections.defaultdict(list)
  for key, right in wanted.items():
    for name in right:
      if (output := find(name)) >= 0:
        rights[key].append(output)
      elif label_map:
        raise InputError(
          f"label map {label_map}: {key!r} is said to be {name!r}, which is no "
          f"class of the classifier ({some(names)})"
        )
  found = [rights[name] for name in own]
  if any(found):
    return found, assumed
  if nameless and len(own) == len(outputs) and not label_map:
    return in_order, True
  other = f"in {label_map}" if label_map else "a class of the classifier"
  raise InputError(
    f"{what}: none of its classes ({some(own)}) is {other} "
    f"({some(wanted if label_map else names)}); name the classifier's outputs "
    "with --class_names, or say which are right for each class with --label_map"
  )


def _make_find(names: Sequence[str]) -> Callable[[str], int]:
  """Returns a function from a class name to the number of its output or -1."""
  exact, loose = collections.defaultdict(list), collections.defaultdict(list)
  for i, name in enumerate(names):
    exact[name].append(i)
    for synonym in dict.fromkeys(map(str.strip, name.split(","))):
      loose[synonym].append(i)

  def find(name: str) -> int:
    # The first synonym that matches decides, as the best known come first.
    found = [exact.get(name), *(loose.get(s.strip()) for s in name.split(","))]
    first = next(filter(None, found), [-1])
    if len(first) > 1:
      raise InputError(
        f"class {name!r} could be "
        + " or ".join(f"output {i} ({names[i]!r})" for i in first)
        + "; say which with --label_map, or give them other --class_names"
      )
    return first[0]

  return find


def _read(path: pathlib.Path) -> dict[str, list[str]]:
  """Reads a label map as {class of the set: names of the right outputs}."""
  if path.is_dir():
    labels = _read_json(path / "folder_to_objectnet_label.json")
    named = _read_json(path / "objectnet_to_imagenet_1k.json")
    loaded = {key: named[v] for key, v in labels.items() if v in named}
  else:
    loaded = _read_json(path)
  wanted = {}
  for key, value in loaded.items():
    right = value.split(";") if isinstance(value, str) else value
    if not isinstance(right, list) or {*map(type, right)} - {str}:
      raise InputError(
        f'label map {path}: {key!r}: expected "name; name" or [name, ...]'
      )
    names = (normal(name.strip()) for name in right)
    wanted[normal(key)] = [name for name in names if name]
  return wanted


def _imagenet_names(mappings: pathlib.Path, num_classes: int) -> list[str]:
  """Returns ObjectNet's names of ImageNet's classes, in TFDS's order.

  Line i of `imagenet_to_label_2012_v2` is not class i. TFDS, PyTorch and the
  official weights number the classes by ascending WordNet id;
  `pytorch_to_imagenet_2012_id.json` maps these numbers to lines.
  """
  lines = class_names.read(
    str(mappings / "imagenet_to_label_2012_v2"), "--label_map"
  )
  numbers = _read_json(mappings / "pytorch_to_imagenet_2012_id.json")
  line_of = [numbers.get(str(i), -1) for i in range(num_classes)]
  if len(lines) != num_classes or {*line_of} != {*range(num_classes)}:
    raise InputError(
      f"label map {mappings} is for {len(lines)} classes in ImageNet's order, "
      f"but the classifier has {num_classes} outputs; name them as in "
      "imagenet_to_label_2012_v2 with --class_names"
    )
  return [lines[line] for line in line_of]


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  return files.read_json(path, what=f"label map {path}")
