"""Finds prepared TFDS sets on disk.

If a set is missing, the error names the command that prepares it.
"""

import fnmatch
import functools
import json
import os
import pathlib
import re
import shlex

from bit_jax import progress
from bit_jax.errors import InputError, did_you_mean, nearest
from bit_jax.storage import user_paths

_BUILT_IN = ("glyphs", "digits")
# What other libraries call a folder of images.
_FOLDER_NAMES = ("folder", "imagefolder", "image_folder", "folders", "images")
_LIBRARIES = ("tfds", "torch", "hf", "hfds", "huggingface", "torchvision")
# Names of sets in torchvision, timm, Hugging Face and papers.
_ELSEWHERE = {
  **dict.fromkeys(
    ("imagenet", "imagenet1k", "imagenet-1k", "ilsvrc2012", "ilsvrc"),
    "imagenet2012",
  ),
  **dict.fromkeys(("imagenet-21k", "imagenet22k"), "imagenet21k"),
  **dict.fromkeys(
    ("flowers", "flowers102", "flowers-102", "flower102"), "oxford_flowers102"
  ),
  **dict.fromkeys(
    ("pets", "pet", "oxfordiiitpet", "oxford_pets", "oxford-iiit-pet"),
    "oxford_iiit_pet",
  ),
  **dict.fromkeys(("cars", "stanford_cars", "stanfordcars"), "cars196"),
  **dict.fromkeys(("svhn",), "svhn_cropped"),
  **dict.fromkeys(("cub", "cub200", "birds"), "caltech_birds2011"),
  **dict.fromkeys(("dogs",), "stanford_dogs"),
  **dict.fromkeys(("places",), "places365_small"),
  **dict.fromkeys(("tinyimagenet", "tiny-imagenet"), "tiny_imagenet"),
}

_DATASET = re.compile(r"([\w-]+)(?:/([^/:]+))?(?::([\w.*|-]+))?")
_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")


def find(
  dataset: str, data_dir: str = "", *, any_version: bool = False
) -> pathlib.Path:
  """Returns the folder of the newest prepared version that matches.

  Args:
    dataset: `NAME[/CONFIG][:VERSION]`; VERSION may contain `*`, and
      alternatives separated by `|`. CONFIG may be left out if only one is
      prepared.
    data_dir: The folder that contains `NAME[/CONFIG]/VERSION/`; '' means
      $TFDS_DATA_DIR, or else ~/tensorflow_datasets.
    any_version: If no version matches, the newest one is used and a note says
      so.

  Raises:
    InputError: There is no such prepared set, or only one in a format without
      random access.
  """
  root = _root(data_dir)
  match = _DATASET.fullmatch(dataset)
  if not match:
    raise InputError(_unknown(dataset, root))
  name, config, wanted = match.groups()
  base = root / name
  if config:
    base /= config
  elif not _versions(base):
    configs = _configs(base)
    if len(configs) > 1:
      raise InputError(
        f"dataset {dataset!r}: {root} holds several configs, choose one of "
        + ", ".join(f"{name}/{config}" for config in configs)
      )
    base = base.joinpath(*configs)
  prepared = _versions(base)
  if not prepared:
    raise InputError(_not_prepared(dataset, name, root))
  patterns = (wanted or "*").split("|")
  fitting = [
    path
    for path in prepared
    if any(fnmatch.fnmatchcase(path.name, pattern) for pattern in patterns)
  ]
  if not fitting:
    message = (
      f"dataset {dataset!r}: {base} holds no version {' or '.join(patterns)}, "
      f"only {', '.join(path.name for path in prepared)}"
    )
    if not any_version:
      raise InputError(message)
    fitting = prepared
    _note(f"{message}, which is used as it is")
  readable = [path for path in fitting if "array_record" in _formats(path)]
  if not readable:
    raise InputError(
      f"dataset {dataset!r}: {fitting[-1]} is stored as "
      f"{' and '.join(_formats(fitting[-1]))}, which has no random access; "
      f"convert it to array_record with: {_prepare_command(dataset, root)}"
    )
  return readable[-1]


@functools.cache
def _note(message: str) -> None:
  """Prints a note, once in a process."""
  progress.say(f"note: {message}")


def _root(data_dir: str) -> pathlib.Path:
  text = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
  text = user_paths.expand(text)
  if "://" in text:
    raise InputError(
      f"data_dir {text}: only local folders can be read; "
      "mount the bucket and give its mount point"
    )
  return pathlib.Path(text)


def _versions(base: pathlib.Path) -> list[pathlib.Path]:
  """Returns the folders of the prepared versions, oldest first."""
  numbered = [
    ([int(number) for number in match.groups()], path)
    for path in _folders(base)
    if (match := _VERSION.fullmatch(path.name))
    and (path / "dataset_info.json").is_file()
  ]
  return [path for _, path in sorted(numbered)]


def _configs(base: pathlib.Path) -> list[str]:
  return [path.name for path in _folders(base) if _versions(path)]


def _folders(base: pathlib.Path) -> list[pathlib.Path]:
  if not base.is_dir():
    return []
  return sorted(path for path in base.iterdir() if path.is_dir())


def _formats(version: pathlib.Path) -> list[str]:
  file = version / "dataset_info.json"
  try:
    info = json.loads(file.read_text())
    # TFDS did not write the format while there was only one.
    first = info.get("fileFormat", "tfrecord")
    return [first, *info.get("alternativeFileFormats", ())]
  except (OSError, ValueError, AttributeError) as error:
    raise InputError(f"{file}: cannot be read ({error})") from error


def _not_prepared(dataset: str, name: str, root: pathlib.Path) -> str:
  """Returns the error for a set that is not on disk."""
  import tensorflow_datasets as tfds

  if name not in tfds.list_builders(with_community_datasets=False):
    return _unknown(dataset, root)
  return (
    f"dataset {dataset!r} is not in data_dir {root}, which {_contents(root)}; "
    f"prepare it with: {_prepare_command(dataset, root)}"
  )


def _unknown(dataset: str, root: pathlib.Path) -> str:
  hint = did_you_mean(_meant(dataset, root))
  if dataset.lower().rstrip(":") in _FOLDER_NAMES:
    hint = "; for a folder of images write folder:PATH, with its path"
  if os.path.isdir(os.path.expanduser(dataset)):
    hint = f"; for a folder of images write folder:{dataset}"
  return (
    f"unknown dataset {dataset!r}: not glyphs, digits, folder:PATH, a TFDS "
    f"name or a set in data_dir {root}, which {_contents(root)}{hint}"
  )


def _meant(dataset: str, root: pathlib.Path) -> list[str]:
  """Returns the sets that an unknown name may mean."""
  import tensorflow_datasets as tfds

  # timm and Hugging Face put the library or the owner before the name.
  name = dataset.lower().partition(":")[0].split("/")[0]
  if name in _LIBRARIES:
    name = re.split("[/:]", dataset.lower(), maxsplit=2)[1:2] or [name]
    name = name[0]
  if name in _ELSEWHERE:
    return [_ELSEWHERE[name]]
  known = dict.fromkeys(
    (
      *_BUILT_IN,
      *(path.name for path in _folders(root) if _is_set(path)),
      *tfds.list_builders(with_community_datasets=False),
    )
  )
  if close := nearest(name, known):
    return close
  # Such as flowers102 for oxford_flowers102.
  plain = re.sub(r"[\W_]", "", name)
  parts = [k for k in known if len(plain) > 3 and plain in k.replace("_", "")]
  return sorted(parts, key=len)[:3]


def _is_set(path: pathlib.Path) -> bool:
  return bool(_versions(path) or _configs(path))


def _contents(root: pathlib.Path) -> str:
  if not root.is_dir():
    return "does not exist"
  names = []
  for path in _folders(root):
    if _versions(path):
      names.append(path.name)
    names.extend(f"{path.name}/{config}" for config in _configs(path))
  return f"holds {', '.join(names)}" if names else "holds no prepared set"


def _prepare_command(dataset: str, root: pathlib.Path) -> str:
  # Of several versions, TFDS still builds the last one named.
  name, _, version = dataset.partition(":")
  if version:
    dataset = f"{name}:{version.split('|')[-1]}"
  # A version may hold `*`, and a path spaces, which a shell would replace.
  words = (dataset, f"--data_dir={root}")
  return f"python -m bit_jax.tools.prepare {shlex.join(words)}"
