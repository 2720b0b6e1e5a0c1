"""One load() for every weight file, and what is needed to write one.

Files are .npz or .safetensors in one of the layouts of layouts.py. Ours
(`params.npz`) carries what a user of the weights needs to know as JSON.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from etils import epath

from bit_jax import models
from bit_jax.errors import InputError
from bit_jax.models import paths
from bit_jax.storage import checkpoint, remote
from bit_jax.weights import array_files, layouts, param_shapes, releases

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
    variant, num_classes = param_shapes.infer_variant(shapes)
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
  param_shapes.check_params(
    f"weights {path}", params, variant, num_classes, options["norm"]
  )
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
      f"{models.spell_options(weights.model_options, weights.model_options)}"
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
