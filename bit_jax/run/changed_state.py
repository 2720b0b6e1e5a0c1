"""Checkpoints of a config that has changed since, with resume_changed.

Weights must be those of the same network. The optimiser's state may belong to
other parameters, as when some are frozen from now on, or no longer.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from bit_jax.errors import InputError, some
from bit_jax.run.step import TrainState
from bit_jax.storage import checkpoint, digest

_OPTIMIZER = "opt_state/"


def _today(name: str) -> str:
  """Returns the path that an array of a checkpoint has in a state of today."""
  # Up to 3d9ff30, `batch_stats` had no `carried` around it.
  return f"carried/{name}" if name.startswith("batch_stats/") else name


def _part(name: str) -> str:
  """Returns the path of an optimiser's array without Optax's wrappers."""
  head, mark, path = name.partition("/trace/")
  return mark + path if mark else head.rpartition("/")[2]


def fits(
  path: epath.Path,
  saved: checkpoint.Saved,
  abstract_state: TrainState,
  changes: Sequence[str],
  class_names: Collection[str] = (),
) -> bool:
  """Returns False if the optimiser's state is not that of the config.

  Args:
    path: The checkpoint.
    saved: Its description.
    abstract_state: The state of the config.
    changes: Differences of the configs, as `workdir_files.differences` returns
      them. Without any, a state that is another one is a damaged one.
    class_names: Names of the classes of the training set; () if unknown.

  Raises:
    InputError: The checkpoint is of another network; the message says which.
  """
  have = {_today(name): shape for name, shape in saved.shapes.items()}
  leaves = jax.tree.leaves(abstract_state)
  want = dict(
    zip(digest.names(abstract_state), (x.shape for x in leaves), strict=True)
  )
  other = {k for k in have.keys() | want.keys() if have.get(k) != want.get(k)}
  if not other or not changes:
    return True
  network = {name for name in other if not name.startswith(_OPTIMIZER)}
  if not network:
    return False
  raise InputError(_misfit(path, saved.metadata, network, changes, class_names))


def _misfit(
  path: epath.Path,
  metadata: Mapping[str, Any],
  arrays: Collection[str],
  changes: Sequence[str],
  class_names: Collection[str],
) -> str:
  """Returns the message for a checkpoint of another network."""
  by_key = {line.partition(":")[0]: line for line in changes}
  elsewhere = "use another --workdir"
  start = f"{elsewhere}, with --config.init.checkpoint={path} to start from its"
  if "model.variant" in by_key:
    return (
      f"checkpoint {path} is of another model than the config "
      f"({by_key['model.variant']}); {elsewhere}"
    )
  if line := by_key.get("resolved.num_classes"):
    old, new = set(metadata.get("class_names", ())), set(class_names)
    names = [
      f"{text}: {some(found)}"
      for text, found in (("gone", old - new), ("new", new - old))
      if old and new and found
    ]
    return (
      f"checkpoint {path} has another number of classes than the data "
      f"({'; '.join([line.partition(': ')[2], *names])}), which "
      f"resume_changed=true cannot change; {start} weights with a new head"
    )
  keys = [
    line
    for key, line in by_key.items()
    if key.startswith(("model.", "objective", "resolved.objective"))
  ]
  return (
    f"checkpoint {path} is of another network than the config "
    f"({'; '.join(keys or changes)}): {some(arrays)} differs; {start} weights"
  )


def restore(path: epath.Path, abstract_state: TrainState) -> TrainState:
  """Returns the state of a checkpoint with the optimiser's state carried over.

  The momentum of parameters that had none is 0. All hosts must call it.

  Args:
    path: A checkpoint for which `fits` returned False.
    abstract_state: The state of the config.

  Raises:
    DamagedError: The checkpoint cannot be read, or has other bits.
  """
  arrays = {_today(k): v for k, v in checkpoint.load_arrays(path).items()}
  parts = {
    _part(name): value
    for name, value in arrays.items()
    if name.startswith(_OPTIMIZER)
  }

  def place(name: str, like: jax.ShapeDtypeStruct) -> jax.Array:
    value = arrays.get(name)
    if name.startswith(_OPTIMIZER):
      value = parts.get(_part(name))
    if value is None or value.shape != like.shape:
      value = jnp.zeros(like.shape, like.dtype)
    return jax.make_array_from_callback(
      like.shape, like.sharding, lambda i: value[i].astype(like.dtype)
    )

  leaves, tree = jax.tree.flatten(abstract_state)
  names = digest.names(abstract_state)
  return jax.tree.unflatten(
    tree, [place(*pair) for pair in zip(names, leaves, strict=True)]
  )
