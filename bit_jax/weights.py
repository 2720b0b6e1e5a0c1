"""One load() for every weight file, and what is needed to write one.

Files are .npz or .safetensors in one of the layouts of layouts.py. Ours
(`params.npz`) carries what a user of the weights needs to know as JSON.
"""

import contextlib
import dataclasses
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from bit_jax import (
  array_files,
  checkpoint,
  layouts,
  models,
  paths,
  releases,
  remote,
)
from bit_jax.errors import InputError, some

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
    model_options: what `models.create` needs to know besides, so that
      `create(variant, num_classes=..., **model_options)` is the network; see
      `models.non_default_options`.
  """

  params: dict[str, Any]
  batch_stats: dict[str, Any]
  variant: str
  class_names: tuple[str, ...] = ()
  preprocess: dict[str, Any] = dataclasses.field(default_factory=dict)
  model_options: dict[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def num_classes(self) -> int:
    """Outputs of the head."""
    return self.params["head"]["bias"].shape[0]


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


def abstract_params(
  variant: str, num_classes: int, norm: str = "gn"
) -> dict[str, Any]:
  """Returns {path: jax.ShapeDtypeStruct} of a variant; computes nothing."""
  model = models.create(variant, num_classes=num_classes, norm=norm)
  image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  tree = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), image)
  return paths.flatten(tree["params"])


def check_params(
  name: str, params: Any, variant: str, num_classes: int, norm: str = "gn"
) -> None:
  """Raises InputError unless params are those of a variant, array by array.

  Args:
    name: of the file, for the message.
    params: nested dict of arrays.
    variant: the network they should belong to.
    num_classes: outputs that the head should have.
    norm: the network's.
  """
  have = paths.flatten(params)
  want = abstract_params(variant, num_classes, norm)
  missing = [k for k in want if k not in have]
  unexpected = [k for k in have if k not in want]
  shapes = [
    f"{k} {tuple(have[k].shape)} instead of {want[k].shape}"
    for k in want
    if k in have and tuple(have[k].shape) != want[k].shape
  ]
  dtypes = [
    f"{k} {v.dtype}"
    for k, v in have.items()
    if v.dtype.name not in array_files.FLOATS
  ]
  problems = [
    f"{what}: {some(keys)}"
    for what, keys in (
      ("missing", missing),
      ("unexpected", unexpected),
      ("wrong shape", shapes),
      ("wrong dtype", dtypes),
    )
    if keys
  ]
  if problems:
    raise InputError(
      f"{name} does not hold the weights of {variant} with {num_classes} "
      f"classes; {'; '.join(problems)}"
    )


def load(path: epath.PathLike) -> Weights:
  """Loads weights from any file or folder that we or the official release made.

  Args:
    path: a .npz or .safetensors file of any layout of layouts.py, e.g. an
      official .npz or a `params.npz`; a work directory, its `checkpoints`
      folder, or one checkpoint in it; or, where no such file exists, the name
      of a release, e.g. `BiT-M-R50x1`.

  Returns:
    Weights on the host as NumPy arrays.

  Raises:
    InputError: nothing is there, or it is damaged, incomplete or not weights
      of a BiT network; the message names the file and the arrays.
  """
  with open_lazily(path) as weights:
    return dataclasses.replace(
      weights,
      params=jax.tree.map(np.asarray, weights.params),
      batch_stats=jax.tree.map(np.asarray, weights.batch_stats),
    )


@contextlib.contextmanager
def open_lazily(path: epath.PathLike) -> Iterator[Weights]:
  """Opens what `load` loads; the arrays of a file are read when used.

  Args:
    path: as for `load`.

  Yields:
    Weights whose leaves have `shape` and `dtype` and become arrays by
    np.asarray, which raises InputError where the file is damaged.

  Raises:
    InputError: as `load`, apart from damage inside an array.
  """
  remote.check(path, "weights")
  name, path = str(path), epath.Path(path)
  if not path.exists():
    if name not in releases.VARIANTS:
      near = releases.similar(name)
      hint = f"; there is a release called {' or '.join(near)}" if near else ""
      raise InputError(f"weights {path}: no such file or folder{hint}")
    path = epath.Path(releases.fetch(name))
  if path.is_dir():
    yield _load_folder(path)
    return
  if path.suffix in (".bin", ".pt", ".pth"):
    raise InputError(
      f"weights {path}: a PyTorch pickle can run any code and is not read; "
      f"save the state dict with safetensors.torch.save_file"
    )
  with array_files.open_arrays(path) as arrays:
    yield _from_arrays(path, arrays)


def _from_arrays(
  path: epath.Path, arrays: dict[str, array_files.LazyArray]
) -> Weights:
  """Names and shapes the arrays of a file as we do."""
  if _METADATA_KEY in arrays:
    with array_files.explaining(path):
      metadata = json.loads(np.asarray(arrays.pop(_METADATA_KEY)).tobytes())
    stats = {
      key.removeprefix(_BATCH_STATS): arrays.pop(key)
      for key in list(arrays)
      if key.startswith(_BATCH_STATS)
    }
    return _make(
      path, paths.unflatten(arrays), paths.unflatten(stats), metadata
    )
  flat: dict[str, Any] = {}
  try:
    layout = layouts.infer(arrays)
    for name, key in layouts.parse_keys(layout, arrays).items():
      try:
        read = layout.view(name).read
        flat[name] = array_files.rearrange(arrays[key], read)
      except ValueError as e:
        raise InputError(
          f"{key} has shape {arrays[key].shape}, which it has in no file of "
          f"the {layout.name} layout"
        ) from e
  except InputError as e:
    raise InputError(f"weights {path}: {e}") from e
  if layout.has_headless and not any(name in flat for name in layouts.HEAD):
    norm = flat.get("norm-pre-head/bias", np.zeros(0, np.float32))
    flat["head/kernel"] = np.zeros((*norm.shape, 0), norm.dtype)
    flat["head/bias"] = np.zeros(0, norm.dtype)
  weights = _make(path, paths.unflatten(flat), {}, {})
  release = releases.of_file(path.stem) if layout is layouts.OFFICIAL else ""
  if not release:
    return weights
  if weights.variant != releases.VARIANTS[release]:
    raise InputError(
      f"weights {path}: called after {release}, but the network is "
      f"{weights.variant}"
    )
  names = releases.class_names(release)
  # The file may be a user's, trained further on other classes.
  known = names if len(names) == weights.num_classes else ()
  return dataclasses.replace(weights, class_names=known)


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
  has_bn = any("/bn1/" in key for key in shapes)
  options = {"norm": "bn" if has_bn else "gn", "weight_standardization": True}
  options |= metadata.get("model_options", {})
  for key, value in options.items():
    if value not in models.OPTIONS.get(key, ()):
      raise InputError(
        f"weights {path}: their network has {key}={value!r}, which this "
        f"version of bit_jax does not know"
      )
  check_params(f"weights {path}", params, variant, num_classes, options["norm"])
  return Weights(
    params,
    batch_stats,
    variant,
    tuple(metadata.get("class_names", ())),
    dict(metadata.get("preprocess", {})),
    models.non_default_options(options),
  )


def save_npz(path: epath.PathLike, weights: Weights) -> None:
  """Writes a `params.npz`: keys are parameter paths, metadata is JSON.

  The file appears under its name only when it is complete.

  Raises:
    InputError: it cannot be written.
  """
  metadata = {
    "variant": weights.variant,
    "class_names": list(weights.class_names),
    "preprocess": weights.preprocess,
    "model_options": weights.model_options,
  }
  arrays = paths.flatten(weights.params)
  for k, v in paths.flatten(weights.batch_stats).items():
    arrays[_BATCH_STATS + k] = v
  encoded = json.dumps(metadata).encode()
  arrays[_METADATA_KEY] = np.frombuffer(encoded, np.uint8)
  array_files.write_arrays(path, arrays)


def save_as(
  path: epath.PathLike, weights: Weights, layout: layouts.Layout
) -> None:
  """Writes weights in the layout of any code base, one array at a time.

  Only ours has a place for class names and preprocessing. The file appears
  under its name only when it is complete.

  Args:
    path: its suffix must be the layout's.
    weights: of `load`, or of `open_lazily` to hold one array at a time.
    layout: of the file.

  Raises:
    InputError: the layout has no place for these weights, or the file cannot be
      written.
  """
  if epath.Path(path).suffix != layout.suffix:
    raise InputError(
      f"{path}: the {layout.name} layout is written to {layout.suffix} files"
    )
  if layout is layouts.BIT_JAX:
    save_npz(path, weights)
    return
  if weights.batch_stats:
    raise InputError(f"{path}: the {layout.name} layout knows no batch_stats")
  if weights.model_options:
    raise InputError(
      f"{path}: the {layout.name} layout is for GroupNorm and weight "
      f"standardization, but these weights are of a network with "
      f"{_spell(weights.model_options, weights.model_options)}"
    )
  flat = paths.flatten(weights.params)
  if not weights.num_classes:
    if not layout.has_headless:
      raise InputError(
        f"{path}: the {layout.name} layout needs a head, which these weights "
        f"do not have"
      )
    flat = {name: v for name, v in flat.items() if name not in layouts.HEAD}
  arrays = {
    layout.table[name]: array_files.rearrange(array, layout.view(name).write)
    for name, array in flat.items()
  }
  array_files.write_arrays(path, arrays)


def _spell(options: Mapping[str, Any], keys: Iterable[str]) -> str:
  values = {key: options.get(key, models.OPTIONS[key][0]) for key in keys}
  return ", ".join(f"{key}={value!r}" for key, value in values.items())


def check_options(weights: Weights, model: Mapping[str, Any]) -> None:
  """Raises InputError if weights mean another network, whatever their shapes.

  Args:
    weights: loaded ones.
    model: config.model.
  """
  have, want = weights.model_options, models.non_default_options(model)
  keys = [key for key in models.OPTIONS if have.get(key) != want.get(key)]
  if keys:
    raise InputError(
      f"config.init.checkpoint holds weights of a network with "
      f"{_spell(have, keys)}, but config.model has {_spell(want, keys)}"
    )


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
