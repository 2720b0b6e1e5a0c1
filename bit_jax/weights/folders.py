"""Finds the weight file in a folder: of a work directory or of Hugging Face.

A repository of Hugging Face has config.json and model.safetensors, possibly in
several parts; its cache keeps `snapshots/COMMIT` for each version.
"""

import re

from etils import epath

from bit_jax.errors import InputError, some
from bit_jax.storage import files, remote
from bit_jax.weights import releases

# The file whose class names are in the config.json beside it.
MODEL = "model.safetensors"
_INDEX = ".safetensors.index.json"
_EXPECTED = "expected a checkpoint, params.npz or model.safetensors in it"
_PART = re.compile(r"-\d{5}-of-(\d{5})\.safetensors$")
_SUFFIXES = (".npz", ".safetensors")
_PICKLES = "PyTorch pickles, which can run any code and are not read"
# Patterns of names, and what they are.
_OTHERS = (
  ("saved_model.pb", "a SavedModel of TensorFlow"),
  ("*.index", "a checkpoint of TensorFlow"),
  ("pytorch_model*.bin", _PICKLES),
  ("*.pth", _PICKLES),
  ("*.pth.tar", _PICKLES),
  ("*.pt", _PICKLES),
  ("*.ckpt", _PICKLES),
  ("*.msgpack", "MessagePack files of flax"),
  ("*.h5", "HDF5 files of Keras"),
  ("*.onnx", "ONNX models"),
)


def find(path: epath.Path) -> list[epath.Path]:
  """Returns the weight file in a folder, or its parts.

  Args:
    path: A folder without checkpoints of our own.

  Raises:
    InputError: There is no weight file, or several that differ.
  """
  try:
    with remote.os_errors():
      return _find(path)
  except OSError as e:
    raise InputError(f"weights {path}: {e}") from e


def _find(path: epath.Path) -> list[epath.Path]:
  for name in ("params.npz", MODEL):
    if (path / name).exists():
      return [path / name]
  if path.name == "snapshots":
    path = path.parent
  if (path / "snapshots").is_dir():
    return _find(_snapshot(path))
  found = sorted(p for p in path.iterdir() if not p.name.startswith("."))
  indices = [p for p in found if p.name.endswith(_INDEX)]
  if len(indices) == 1:
    return parts(indices[0])
  singles = [p for p in found if p.suffix in _SUFFIXES and p.is_file()]
  counts = [_PART.search(p.name) for p in singles]
  if singles and all(
    match and int(match[1]) == len(singles) for match in counts
  ):
    return singles
  if len(singles) == 1:
    return singles
  if singles:
    raise InputError(
      f"weights {path}: there are {len(singles)} weight files in it, "
      f"{some(p.name for p in singles)}; give one of them"
    )
  for pattern, what in _OTHERS:
    if others := sorted(p.name for p in path.glob(pattern)):
      raise InputError(
        f"weights {path}: it holds {what} ({some(others)}); save their arrays "
        f"with safetensors.torch.save_file or np.savez"
      )
  if broken := [p.name for p in found if not p.exists()]:
    raise InputError(
      f"weights {path}: {some(broken)} is a link to nothing: copy the folder "
      f"with what its links lead to, as cp -L does, or download it again"
    )
  holds = some(p.name for p in found) if found else "nothing"
  raise InputError(
    f"weights {path}: no checkpoint and no params.npz in there, but {holds}; "
    f"{_EXPECTED}"
  )


def _snapshot(path: epath.Path) -> epath.Path:
  """Returns the version that a cache folder of Hugging Face stands for."""
  snapshots = sorted(p for p in (path / "snapshots").iterdir() if p.is_dir())
  main = path / "refs" / "main"
  if main.exists():
    wanted = path / "snapshots" / files.read_text(main).strip()
    if wanted in snapshots:
      return wanted
  if len(snapshots) != 1:
    names = some(p.name for p in snapshots) or "none"
    raise InputError(
      f"weights {path}: expected one snapshot in it, or refs/main; there is "
      f"{names}"
    )
  return snapshots[0]


def is_index(path: epath.Path) -> bool:
  """Returns True for the index of a .safetensors file in parts."""
  return path.name.endswith(_INDEX)


def is_part(path: epath.Path) -> bool:
  """Returns True for one of several parts of a .safetensors file."""
  return bool(_PART.search(path.name))


def parts(index: epath.Path) -> list[epath.Path]:
  """Returns the files that the index of a file in parts names.

  Raises:
    InputError: The index cannot be read, or one of the files is missing.
  """
  places = files.read_json(index).get("weight_map")
  if not isinstance(places, dict) or not places:
    raise InputError(f'{index}: expected a "weight_map" of keys and files')
  names = list(dict.fromkeys(map(str, places.values())))
  missing = [name for name in names if not (index.parent / name).exists()]
  if missing:
    raise InputError(f"{index}: its files {some(missing)} are missing")
  return [index.parent / name for name in names]


def class_names(folder: epath.Path) -> tuple[str, ...]:
  """Returns the class names in a config.json of Hugging Face; () if unknown.

  That of transformers has `id2label`, that of timm `label_names`.
  """
  path = folder / "config.json"
  if not path.exists():
    return ()
  config = files.read_json(path)
  labels = config.get("id2label") or config.get("label_names")
  if isinstance(labels, list):
    labels = {str(i): name for i, name in enumerate(labels)}
  if not isinstance(labels, dict):
    return ()
  names = [labels.get(str(i), "") for i in range(len(labels))]
  if not all(isinstance(name, str) and name for name in names):
    return ()
  # A config without names of its own numbers them.
  if all(name == f"LABEL_{i}" for i, name in enumerate(names)):
    return ()
  # These have the order of the WordNet ids, by which our data sets know them.
  imagenet = releases.imagenet_names()
  if len(names) == len(imagenet) and names[0].startswith("tench"):
    return imagenet
  return tuple(names)
