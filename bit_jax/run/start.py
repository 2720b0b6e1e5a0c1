"""The state a run starts from: checkpoint, carried-over weights, or chance."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from bit_jax import models, weights
from bit_jax.errors import InputError
from bit_jax.models import paths
from bit_jax.parallel import hosts
from bit_jax.recipe.load import Config
from bit_jax.run import workdir_files
from bit_jax.run.step import TrainState, make_abstract_state, make_init
from bit_jax.storage import checkpoint

_MOST_CHECKPOINTS = 1000  # That are tried.


def open_checkpoints(
  folder: epath.Path, config: Config
) -> checkpoint.Checkpointer:
  """Opens the folder of a run's checkpoints, making it if it is not there."""
  return checkpoint.Checkpointer(
    folder,
    keep=config.checkpoint.keep,
    keep_every_steps=config.checkpoint.keep_every_steps,
  )


def restore_newest(
  checkpointer: checkpoint.Checkpointer,
  folder: epath.Path,
  config: Config,
  mesh: Mesh,
  say: Callable[[str], None],
) -> tuple[int, TrainState]:
  """Restores the newest checkpoint that is whole.

  Damaged ones that are newer are named and set aside.

  Args:
    checkpointer: of folder.
    folder: holds at least one checkpoint.
    config: resolved.
    mesh: need not be the one it was saved on.
    say: prints a line.

  Returns:
    Its step, and the state.

  Raises:
    InputError: the checkpoint belongs to a run of another config, is further
      than this one goes, or none is whole.
  """
  damaged = {}
  abstract_state = make_abstract_state(config, mesh)
  for step in saved_steps(folder):
    path = folder / str(step)
    try:
      saved = _on_all_hosts(path, checkpointer.metadata, step)
      workdir_files.check_checkpoint(path, saved, config)
      if step > config.resolved.total_steps:
        raise InputError(
          f"{folder} is at step {step}, further than the "
          f"{config.resolved.total_steps} steps of this config"
        )
      state = _on_all_hosts(path, checkpointer.restore, step, abstract_state)
      checkpointer.check(step, state)
    except checkpoint.DamagedError as error:
      damaged[step] = str(error)
      state = None  # There may be no room for two.
      continue
    for bad, problem in damaged.items():
      aside = checkpointer.set_aside(bad)
      say(f"{problem}; it is now {aside}, going back to step {step}")
    return step, state
  first = next(iter(damaged.values()))
  raise InputError(
    f"{first}; no other checkpoint is whole: restore one from a copy, or start "
    f"anew in another --workdir"
  )


def _on_all_hosts(
  path: epath.Path, read: Callable[..., Any], *args: Any
) -> Any:
  """Returns read(*args) if each host can read its part; else raises on all.

  Raises:
    DamagedError: this host or another one cannot.
  """
  result, problem = None, None
  try:
    result = read(*args)
  except checkpoint.DamagedError as error:
    problem = error
  if not hosts.from_all(problem is None).all():
    raise problem or checkpoint.DamagedError(
      f"checkpoint {path} is damaged: another host cannot read it"
    )
  return result


def saved_steps(folder: epath.Path) -> list[int]:
  """Returns the steps of the checkpoints in a folder, the newest first.

  All hosts must call it, and get what host 0 sees: listings of shared folders
  may lag behind.
  """
  found = np.full(_MOST_CHECKPOINTS, -1, np.int32)
  seen = checkpoint.steps(folder)[:_MOST_CHECKPOINTS]
  found[: len(seen)] = seen
  return [int(step) for step in hosts.from_lead(found) if step >= 0]


def start_anew(config: Config, mesh: Mesh) -> TrainState:
  """Returns the state at step 0: weights that are carried over, or random ones.

  Raises:
    InputError: config.init.checkpoint cannot be used.
  """
  # A bad file is found before anything is compiled.
  path = config.init.checkpoint
  loaded = weights.load(path) if path else None
  if loaded is not None:
    check_options(loaded, config.model)
  state = make_init(config, mesh)(config.seed)
  if loaded is None:
    return state
  params = with_head(loaded, state.params, keep=config.init.keep_head)
  state = state.replace(params=_placed(params, state.params))
  if loaded.batch_stats and state.batch_stats:
    stats = _placed(loaded.batch_stats, state.batch_stats)
    state = state.replace(batch_stats=stats)
  return state


def check_options(loaded: weights.Weights, model: Mapping[str, Any]) -> None:
  """Raises InputError if weights mean another network, whatever their shapes.

  Args:
    loaded: the weights.
    model: config.model.
  """
  have, want = loaded.model_options, models.non_default_options(model)
  keys = [key for key in models.OPTIONS if have.get(key) != want.get(key)]
  if keys:
    raise InputError(
      f"config.init.checkpoint holds weights of a network with "
      f"{models.spell_options(have, keys)}, but config.model has "
      f"{models.spell_options(want, keys)}"
    )


def with_head(
  loaded: weights.Weights, params: Any, *, keep: bool
) -> dict[str, Any]:
  """Returns a fresh network's params with everything taken from weights.

  Args:
    loaded: the weights.
    params: of a new network; says what the head must look like.
    keep: True to take the head too; False to leave it as it is in params.

  Raises:
    InputError: the weights belong to another variant, or the head is to be
      kept but has another number of classes.
  """
  fresh, carried = paths.flatten(params), paths.flatten(loaded.params)
  merged = {}
  for key, value in fresh.items():
    if key.startswith("head/") and not keep:
      merged[key] = value
    elif key not in carried or carried[key].shape != value.shape:
      have = carried[key].shape if key in carried else "nothing"
      raise InputError(
        f"config.init.checkpoint holds {loaded.variant} with "
        f"{loaded.num_classes} classes, which does not fit this model: {key} "
        f"is {have}, expected {value.shape}"
      )
    else:
      merged[key] = carried[key].astype(value.dtype)
  return paths.unflatten(merged)


def _placed(arrays, like):
  """Puts arrays where those of `like` are."""
  return jax.device_put(arrays, jax.tree.map(lambda x: x.sharding, like))
