"""One load() for every weight file, and what is needed to write one.

Official .npz files name arrays `resnet/block1/unit01/a/standardized_conv2d/
kernel`; ours (`params.npz`) name them as the parameter tree does, and carry
what a user of the weights needs to know as JSON. Nothing is pickled.
"""

import dataclasses
import json
import re
import zipfile
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from bit_jax import checkpoint, models, paths
from bit_jax.errors import InputError

Flat = Mapping[str, Any]  # parameter path -> array

_METADATA_KEY = "bit_jax_metadata"
_BATCH_STATS = "batch_stats/"


@dataclasses.dataclass(frozen=True)
class Weights:
  """A network's weights and what is known about them.

  Attributes:
    params: nested dict of float arrays, the tree of `models.create`.
    batch_stats: nested dict of running statistics; {} without BatchNorm.
    variant: e.g. `R50x1`.
    class_names: one name for each output of the head; () if unknown.
    preprocess: the fields of `data.preprocess.Preprocess` that fit the
      weights in evaluation; {} if unknown.
  """

  params: dict[str, Any]
  batch_stats: dict[str, Any]
  variant: str
  class_names: tuple[str, ...] = ()
  preprocess: dict[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def num_classes(self) -> int:
    """Outputs of the head."""
    return self.params["head"]["bias"].shape[0]


# Our names of a unit's parts, in the order of the official a, b, c.
_CONVS = {"a": "conv1", "b": "conv2", "c": "conv3"}
_NORMS = {"a": "gn1", "b": "gn2", "c": "gn3"}


def from_official_key(key: str) -> str:
  """Returns the parameter path of an official .npz key; '' if it is none.

  Some released files number layers (`standardized_conv2d_17`); the number
  carries no information and is dropped.
  """
  key = re.sub(r"(standardized_conv2d|group_norm|conv2d)_\d+", r"\1", key)
  leaf = {"gamma": "scale", "beta": "bias"}
  if key == "resnet/root_block/standardized_conv2d/kernel":
    return "root_block/conv_root/kernel"
  if match := re.fullmatch(r"resnet/group_norm/(gamma|beta)", key):
    return f"norm-pre-head/{leaf[match[1]]}"
  if match := re.fullmatch(r"resnet/head/conv2d/(kernel|bias)", key):
    return f"head/{match[1]}"
  unit = r"resnet/(block\d/unit\d\d)"
  if match := re.fullmatch(unit + r"/a/proj/standardized_conv2d/kernel", key):
    return f"{match[1]}/conv_proj/kernel"
  if match := re.fullmatch(unit + r"/([abc])/standardized_conv2d/kernel", key):
    return f"{match[1]}/{_CONVS[match[2]]}/kernel"
  if match := re.fullmatch(unit + r"/([abc])/group_norm/(gamma|beta)", key):
    return f"{match[1]}/{_NORMS[match[2]]}/{leaf[match[3]]}"
  return ""


def _from_official(path: epath.Path, arrays: Flat) -> dict[str, np.ndarray]:
  flat = {}
  unknown = [k for k in arrays if not from_official_key(k)]
  if unknown:
    raise InputError(
      f"{path}: unexpected arrays {_some(unknown)} in a file of the official "
      f"layout"
    )
  for key in arrays:
    name, array = from_official_key(key), arrays[key]
    # The official head is a 1x1 convolution.
    flat[name] = array[0, 0] if name == "head/kernel" else array
  return flat


def infer_variant(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, int]:
  """Infers variant and number of classes from the shapes of parameters.

  The depth is the one whose units differ least from those that are there, so
  that a damaged file is compared with the network it was meant for.

  Args:
    shapes: {parameter path: shape}.

  Returns:
    (variant, num_classes), e.g. ("R50x1", 1000).

  Raises:
    InputError: there is no root kernel or no head, or the root has a width
      that no variant has.
  """
  for key in ("root_block/conv_root/kernel", "head/kernel"):
    if key not in shapes:
      raise InputError(
        f"no array {key}: these are not weights of a BiT network"
      )
  units = [0, 0, 0, 0]
  for path in shapes:
    if match := re.match(r"block([1-4])/unit(\d\d)/", path):
      block = int(match[1]) - 1
      units[block] = max(units[block], int(match[2]))
  root = shapes["root_block/conv_root/kernel"]
  small = root[0] == 3

  def distance(depth):
    arch = models.ARCHITECTURES[depth]
    return (
      arch.small_images != small,
      sum(abs(a - b) for a, b in zip(arch.units, units, strict=True)),
    )

  depth = min(models.ARCHITECTURES, key=distance)
  variant = f"R{depth}x{root[-1] / 64:g}"
  models.parse_variant(variant)
  return variant, shapes["head/kernel"][-1]


def abstract_params(variant: str, num_classes: int) -> dict[str, Any]:
  """Returns {path: jax.ShapeDtypeStruct} of a variant; computes nothing."""
  model = models.create(variant, num_classes=num_classes)
  image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  tree = jax.eval_shape(model.init, jax.random.key(0), image)
  return paths.flatten(tree["params"])


def check_params(
  name: str, params: Any, variant: str, num_classes: int
) -> None:
  """Raises InputError unless params are those of a variant, array by array.

  Args:
    name: of the file, for the message.
    params: nested dict of arrays.
    variant: the network they should belong to.
    num_classes: outputs that the head should have.
  """
  want, have = abstract_params(variant, num_classes), paths.flatten(params)
  missing = [k for k in want if k not in have]
  unexpected = [k for k in have if k not in want]
  shapes = [
    f"{k} {tuple(have[k].shape)} instead of {want[k].shape}"
    for k in want
    if k in have and tuple(have[k].shape) != want[k].shape
  ]
  problems = [
    f"{what}: {_some(keys)}"
    for what, keys in (
      ("missing", missing),
      ("unexpected", unexpected),
      ("wrong shape", shapes),
    )
    if keys
  ]
  if problems:
    raise InputError(
      f"{name} does not hold the weights of {variant} with {num_classes} "
      f"classes; {'; '.join(problems)}"
    )


def _some(names: list[str]) -> str:
  more = f" and {len(names) - 3} more" if len(names) > 3 else ""
  return ", ".join(sorted(names)[:3]) + more


def load(path: epath.PathLike) -> Weights:
  """Loads weights from any file or folder that we or the official release made.

  Args:
    path: an official .npz (BiT-S, BiT-M, fine-tuned or distilled), a
      `params.npz`, a work directory, its `checkpoints` folder, or one
      checkpoint in it.

  Returns:
    Weights on the host as NumPy arrays.

  Raises:
    InputError: nothing is there, or it is damaged, incomplete or not weights
      of a BiT network; the message names the file and the arrays.
  """
  path = epath.Path(path)
  if not path.exists():
    raise InputError(f"weights {path}: no such file or folder")
  if path.is_dir():
    return _load_folder(path)
  try:
    with path.open("rb") as f:
      npz = np.load(f, allow_pickle=False)
      if isinstance(npz, np.ndarray):
        raise InputError(f"weights {path}: expected .npz, found .npy")
      # A zip file in which every array has its own checksum.
      arrays = {k: npz[k] for k in npz.files}
  except InputError:
    raise
  except (ValueError, OSError, EOFError, zipfile.BadZipFile, KeyError) as e:
    raise InputError(f"weights {path}: not a readable .npz file ({e})") from e
  if _METADATA_KEY in arrays:
    metadata = json.loads(arrays.pop(_METADATA_KEY).tobytes())
  elif any(key.startswith("resnet/") for key in arrays):
    metadata, arrays = {}, _from_official(path, arrays)
  else:
    metadata = {}
  stats = {
    k.removeprefix(_BATCH_STATS): arrays.pop(k)
    for k in list(arrays)
    if k.startswith(_BATCH_STATS)
  }
  return _make(path, paths.unflatten(arrays), paths.unflatten(stats), metadata)


def _load_folder(path: epath.Path) -> Weights:
  folder = checkpoint.find(path)
  if folder is None and (path / "params.npz").exists():
    return load(path / "params.npz")
  if folder is None:
    raise InputError(
      f"weights {path}: no checkpoint and no params.npz in there"
    )
  return _make(folder, *checkpoint.load_weights(folder))


def _make(path, params, batch_stats, metadata) -> Weights:
  shapes = {k: tuple(v.shape) for k, v in paths.flatten(params).items()}
  try:
    variant, num_classes = infer_variant(shapes)
  except InputError as e:
    raise InputError(f"weights {path}: {e}") from e
  check_params(f"weights {path}", params, variant, num_classes)
  return Weights(
    params,
    batch_stats,
    variant,
    tuple(metadata.get("class_names", ())),
    dict(metadata.get("preprocess", {})),
  )


def save_npz(path: epath.PathLike, weights: Weights) -> None:
  """Writes a `params.npz`: keys are parameter paths, metadata is JSON.

  The file appears under its name only when it is complete.
  """
  metadata = {
    "variant": weights.variant,
    "class_names": list(weights.class_names),
    "preprocess": weights.preprocess,
  }
  arrays: dict[str, Any] = {
    k: np.asarray(v) for k, v in paths.flatten(weights.params).items()
  }
  for k, v in paths.flatten(weights.batch_stats).items():
    arrays[_BATCH_STATS + k] = np.asarray(v)
  encoded = json.dumps(metadata).encode()
  arrays[_METADATA_KEY] = np.frombuffer(encoded, np.uint8)
  path = epath.Path(path)
  part = path.with_name(path.name + ".part")
  with part.open("wb") as f:
    np.savez(f, **arrays)
  part.replace(path)


def with_head(weights: Weights, params: Any, *, keep: bool) -> dict[str, Any]:
  """Returns a fresh network's params with everything taken from weights.

  Args:
    weights: loaded ones.
    params: of a new network; says what the head must look like.
    keep: True to take the head too; False to leave it as it is in params.

  Raises:
    InputError: the weights belong to another variant, or the head is to be
      kept but has another number of classes.
  """
  fresh, loaded = paths.flatten(params), paths.flatten(weights.params)
  merged = {}
  for key, value in fresh.items():
    if key.startswith("head/") and not keep:
      merged[key] = value
    elif key not in loaded or loaded[key].shape != value.shape:
      have = loaded[key].shape if key in loaded else "nothing"
      raise InputError(
        f"config.init.checkpoint holds {weights.variant} with "
        f"{weights.num_classes} classes, which does not fit this model: {key} "
        f"is {have}, expected {value.shape}"
      )
    else:
      merged[key] = loaded[key].astype(value.dtype)
  return paths.unflatten(merged)
