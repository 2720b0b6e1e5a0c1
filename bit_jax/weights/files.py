"""Loads weights from any file or folder; saves them in any layout.

Files are .npz or .safetensors in one of the layouts of layouts.py. Our own
(`params.npz`) contain the variant, class names, preprocessing and options of
the network as JSON too.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from etils import epath

from bit_jax import models, progress
from bit_jax.errors import InputError
from bit_jax.models import paths
from bit_jax.storage import checkpoint, remote, user_paths
from bit_jax.storage.files import normal
from bit_jax.weights import (
  array_files,
  folders,
  layouts,
  param_shapes,
  prefixes,
  recognize,
  releases,
)

_METADATA_KEY = "bit_jax_metadata"
_BATCH_STATS = "batch_stats/"


@dataclasses.dataclass(frozen=True)
class Weights:
  """A network's weights, and how to build and use the network.

  Attributes:
    params: Nested dict of float arrays, the parameters of `models.create`.
    batch_stats: Nested dict of running statistics; {} without BatchNorm.
    variant: Variant of the network, e.g. `R50x1`.
    class_names: One name per output of the head; () if unknown.
    preprocess: Fields of the `data.preprocess.Preprocess` to evaluate the
      weights with; {} if unknown.
    model_options: Options other than the defaults with which
      `models.create(variant, num_classes=..., **model_options)` builds the
      network.
    trained_on: What `run.trained_on` keeps of the training images; {} if
      unknown.
  """

  params: dict[str, Any]
  batch_stats: dict[str, Any]
  variant: str
  class_names: tuple[str, ...] = ()
  preprocess: dict[str, Any] = dataclasses.field(default_factory=dict)
  model_options: dict[str, Any] = dataclasses.field(default_factory=dict)
  trained_on: dict[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def num_classes(self) -> int:
    """Number of outputs of the head; 0 for weights without a head."""
    return self.params["head"]["bias"].shape[0]

  def __post_init__(self):
    # The names of a data set are in this form as well.
    names = tuple(map(normal, self.class_names))
    object.__setattr__(self, "class_names", names)


def load(path: epath.PathLike) -> Weights:
  """Loads weights from any file or folder that we or the official release made.

  Args:
    path: A .npz or .safetensors file of any layout of layouts.py, e.g. an
      official .npz or a `params.npz`; a work directory, its `checkpoints`
      folder, or one checkpoint in it; a folder of Hugging Face, with
      `model.safetensors`; or, if no such file exists, the name of a release,
      e.g. `BiT-M-R50x1`.

  Returns:
    Weights on the host as NumPy arrays.

  Raises:
    InputError: There is no such file or folder, or it is damaged, incomplete or
      does not contain weights of a BiT network; the message names the file and
      the arrays.

  Example:
    >>> import pathlib, tempfile
    >>> import jax, numpy as np
    >>> from bit_jax import models, weights
    >>> model = models.create("R14x0.03125", num_classes=2)
    >>> images = np.zeros((1, 32, 32, 3), np.float32)
    >>> params = jax.jit(model.init)(jax.random.key(0), images)["params"]
    >>> small = weights.Weights(params, {}, "R14x0.03125", ("cat", "dog"))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   path = pathlib.Path(folder) / "params.npz"
    ...   weights.save_npz(path, small)
    ...   loaded = weights.load(path)
    >>> loaded.variant, loaded.num_classes, loaded.class_names
    ('R14x0.03125', 2, ('cat', 'dog'))
    >>> loaded.params["head"]["kernel"].shape
    (64, 2)
  """
  with open_lazily(path) as weights:
    trees = weights.params, weights.batch_stats
    what, total = f"reading the weights {path}", len(jax.tree.leaves(trees))
    with progress.activity(what, total, "arrays") as doing:

      def read(array):
        doing.add()
        return np.asarray(array)

      params, batch_stats = jax.tree.map(read, trees)
    return dataclasses.replace(weights, params=params, batch_stats=batch_stats)


@contextlib.contextmanager
def open_lazily(
  path: epath.PathLike, *, only_shapes: bool = False
) -> Iterator[Weights]:
  """Opens weights like `load`, but reads each array of a file when it is used.

  Args:
    path: Any file, folder or release that `load` takes.
    only_shapes: True where no array is used: of a checkpoint, which is read as
      a whole otherwise, shapes and dtypes alone.

  Yields:
    Weights whose leaves have `shape` and `dtype` and become arrays by
    np.asarray, which raises InputError if the array is damaged.

  Raises:
    InputError: The same problems as in `load`, except damage inside an array.
  """
  name = user_paths.expand(path)
  remote.check(name, "weights")
  path = epath.Path(name)
  if not path.exists():
    if name not in releases.VARIANTS:
      near = releases.similar(name)
      hint = f"; there is a release called {' or '.join(near)}" if near else ""
      if path.with_name(path.name + ".index").exists():
        hint = ", but a checkpoint of TensorFlow, which is not read"
      raise InputError(f"weights {path}: no such file or folder{hint}")
    path = epath.Path(releases.fetch(name))
  has_config = True
  if path.is_dir():
    if folder := checkpoint.find(path):
      read = checkpoint.load_shapes if only_shapes else checkpoint.load_weights
      yield _make(folder, *read(folder))
      return
    files = folders.find(path)
  elif folders.is_index(path):
    files = folders.parts(path)
  elif folders.is_part(path):
    raise InputError(f"weights {path}: one part of several; give its folder")
  else:
    files, has_config = [path], path.name == folders.MODEL
  names = folders.class_names(files[0].parent) if has_config else ()
  with contextlib.ExitStack() as stack:
    arrays: dict[str, array_files.LazyArray] = {}
    for file in files:
      arrays |= stack.enter_context(array_files.open_arrays(file))
    weights = _from_arrays(files[0] if len(files) == 1 else path, arrays)
    if not weights.class_names and len(names) == weights.num_classes:
      weights = dataclasses.replace(weights, class_names=names)
    yield weights


def _from_arrays(
  path: epath.Path, arrays: dict[str, array_files.LazyArray]
) -> Weights:
  """Converts a file's arrays to our names and shapes."""
  # Only our own files have metadata, and their arrays need no conversion.
  if _METADATA_KEY in arrays:
    with recognize.explaining(path):
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
    arrays = prefixes.remove(prefixes.without_counters(arrays))
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
  # A file without a head becomes a network with a head of no outputs, so that
  # every network has the same parameters.
  if layout.has_headless:
    flat = _with_head(flat)
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
  # The file may be a user's, fine-tuned on other classes under the same name.
  known = names if len(names) == weights.num_classes else ()
  return dataclasses.replace(weights, class_names=known)


def _make(path, params, batch_stats, metadata) -> Weights:
  """Infers the variant and options, and checks that all arrays are there."""
  # Heads of other objectives are whatever their network says.
  heads = {k: params[k] for k in metadata.get("heads", ()) if k in params}
  flat = paths.flatten({k: v for k, v in params.items() if k not in heads})
  if heads:
    flat = _with_head(flat)
  shapes = {k: tuple(v.shape) for k, v in flat.items()}
  try:
    variant, num_classes = param_shapes.infer_variant(shapes)
  except InputError as e:
    raise InputError(f"weights {path}: {e}") from e
  # Older files have no options; their norm follows from the parameters' names.
  has_bn = any("/bn1/" in key for key in shapes)
  options = {"norm": "bn" if has_bn else "gn", "weight_standardization": True}
  options |= metadata.get("model_options", {})
  for key, value in options.items():
    if value not in models.OPTIONS.get(key, ()):
      raise InputError(
        f"weights {path}: their network has {key}={value!r}, which this "
        f"version of bit_jax does not know"
      )
  own = paths.unflatten(flat)
  param_shapes.check_params(
    f"weights {path}", own, variant, num_classes, options["norm"]
  )
  return Weights(
    own | heads,
    batch_stats,
    variant,
    tuple(metadata.get("class_names", ())),
    dict(metadata.get("preprocess", {})),
    models.non_default_options(options),
    dict(metadata.get("trained_on", {})),
  )


def _with_head(flat: dict[str, Any]) -> dict[str, Any]:
  """Returns arrays with a head of no classes if they have no head."""
  if any(name in flat for name in layouts.HEAD):
    return flat
  norm = flat.get("norm-pre-head/bias", np.zeros(0, np.float32))
  return {
    **flat,
    "head/kernel": np.zeros((*norm.shape, 0), norm.dtype),
    "head/bias": np.zeros(0, norm.dtype),
  }


def save_npz(path: epath.PathLike, weights: Weights) -> None:
  """Writes a `params.npz`: keys are parameter paths, metadata is JSON.

  The file appears under its name only when it is complete.

  Args:
    path: The file to write; an existing one is replaced.
    weights: The weights to save.

  Raises:
    InputError: The file cannot be written.
  """
  metadata = {
    "variant": weights.variant,
    "class_names": list(weights.class_names),
    "preprocess": weights.preprocess,
    "model_options": weights.model_options,
    "heads": models.extra_heads(weights.params),
    "trained_on": weights.trained_on,
  }
  arrays = paths.flatten(weights.params)
  for k, v in paths.flatten(weights.batch_stats).items():
    arrays[_BATCH_STATS + k] = v
  encoded = json.dumps(metadata).encode()
  arrays[_METADATA_KEY] = np.frombuffer(encoded, np.uint8)
  array_files.write_arrays(user_paths.expand(path), arrays)


def save_as(
  path: epath.PathLike, weights: Weights, layout: layouts.Layout
) -> None:
  """Writes weights in the layout of any code base, one array at a time.

  Only our own layout can store class names and preprocessing. The file appears
  under its name only when it is complete.

  Args:
    path: The file to write; it must have the layout's suffix.
    weights: Weights from `load`, or from `open_lazily` to have no more than one
      array in memory.
    layout: Layout of the file, one of layouts.LAYOUTS.

  Raises:
    InputError: The layout cannot store these weights, or the file cannot be
      written.
  """
  path = user_paths.expand(path)
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
  if heads := models.extra_heads(weights.params):
    raise InputError(
      f"{path}: the {layout.name} layout has no place for the heads "
      f"{', '.join(heads)}"
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
