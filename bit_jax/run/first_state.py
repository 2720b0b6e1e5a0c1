"""The state a run starts from: a checkpoint, given weights, or random ones."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from flax import struct

from bit_jax import models, weights
from bit_jax.errors import InputError, some
from bit_jax.models import paths
from bit_jax.parallel import hosts
from bit_jax.recipe import network
from bit_jax.recipe.load import Config
from bit_jax.run import changed_state
from bit_jax.run.step import (
  StepSpec,
  TrainState,
  make_abstract_state,
  make_init,
)
from bit_jax.run.workdir_files import RunFiles
from bit_jax.storage import checkpoint
from bit_jax.storage.files import normal
from bit_jax.weights import classes

# Most checkpoints considered when looking for an intact one.
_MAX_CHECKPOINTS = 1000


class _FlatState(struct.PyTreeNode):
  """The train state up to 3d9ff30: `batch_stats` had no `carried` around it."""

  step: Any
  params: Any
  batch_stats: Any
  opt_state: Any
  rng: Any


def load(
  folder: epath.Path,
  spec: StepSpec,
  config: Config,
  run_files: RunFiles,
  log: Callable[[str], None],
  class_names: Sequence[str] = (),
) -> tuple[int, TrainState]:
  """Returns the step and the state to go on from; all hosts must call it.

  The newest checkpoint that is intact, else the weights of the config, else
  random ones. Damaged checkpoints that are newer are named and renamed.

  Args:
    folder: WORKDIR/checkpoints; need not exist.
    spec: Of the run's step.
    config: Resolved.
    run_files: The config, to be compared with that of the checkpoint.
    log: Prints a line.
    class_names: Names of the classes of the training set; () if unknown.

  Raises:
    InputError: The checkpoint belongs to a run of another config or of classes
      in another order, is further than this one goes, none is intact, or the
      weights cannot be used.
  """
  steps = saved_steps(folder)
  if not steps:
    return 0, init_state(spec, config, class_names)
  damaged = {}
  abstract_state = make_abstract_state(spec)
  for step in steps:
    path = folder / str(step)
    try:
      saved = _on_all_hosts(path, checkpoint.read_saved, path)
      changes = run_files.check_checkpoint(path, saved.metadata)
      _check_classes(path, saved.metadata.get("class_names", ()), class_names)
      if step > config.resolved.total_steps:
        raise InputError(
          f"{folder} is at step {step}, further than the "
          f"{config.resolved.total_steps} steps of this config; with "
          f"--config.total_steps={step} it is the last one"
        )
      if changed_state.fits(path, saved, abstract_state, changes, class_names):
        state = _restore(path, saved, abstract_state)
      else:
        restore = changed_state.restore
        state = _on_all_hosts(path, restore, path, abstract_state)
        log(
          f"{path}: config.optim has changed; the momentum of parameters that "
          f"had none begins at 0"
        )
    except checkpoint.DamagedError as error:
      damaged[step] = str(error)
      continue
    for bad, problem in damaged.items():
      aside = checkpoint.set_aside(folder / str(bad))
      log(f"{problem}; it is now {aside}, going back to step {step}")
    return step, state
  first = next(iter(damaged.values()))
  raise InputError(
    f"{first}; no other checkpoint is whole: restore one from a copy, or start "
    f"anew in another --workdir"
  )


def _restore(
  path: epath.Path, saved: checkpoint.Saved, abstract_state: TrainState
) -> TrainState:
  """Restores a checkpoint of this or an older commit, and checks its bits."""
  if "carried" in saved.fields:
    state = _on_all_hosts(path, checkpoint.restore, path, abstract_state)
    checkpoint.check(path, saved, state)
    return state
  fields = {**vars(abstract_state)}
  stats = fields.pop("carried").get("batch_stats", {})
  flat = _FlatState(**fields, batch_stats=stats)
  flat = _on_all_hosts(path, checkpoint.restore, path, flat)
  checkpoint.check(path, saved, flat)
  fields = {**vars(flat)}
  stats = fields.pop("batch_stats")
  return TrainState(**fields, carried={"batch_stats": stats} if stats else {})


def _on_all_hosts(
  path: epath.Path, read: Callable[..., Any], *args: Any
) -> Any:
  """Returns read(*args) if each host can read its part; else raises on all.

  Raises:
    DamagedError: This host or another one cannot.
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


def _check_classes(
  path: epath.Path, theirs: Sequence[str], ours: Sequence[str]
) -> None:
  """Raises InputError if a class has another number than in a checkpoint.

  With resume_changed a class may have a new name, but not another's output.
  """
  theirs, ours = tuple(map(normal, theirs)), tuple(map(normal, ours))
  numbered = classes.only_count(theirs) or classes.only_count(ours)
  if len(theirs) != len(ours) or (numbered and set(theirs) != set(ours)):
    return
  for was, name in enumerate(theirs):
    if name in ours and name != ours[was] and theirs.count(name) == 1:
      raise InputError(
        f"checkpoint {path} has the classes in another order: {name!r} was "
        f"class {was} and is class {ours.index(name)} now; use another "
        f"--workdir, with --config.init.checkpoint={path} "
        f"--config.init.keep_head=true, which matches them by name"
      )


def saved_steps(folder: epath.Path) -> list[int]:
  """Returns the steps of the checkpoints in a folder, the newest first.

  All hosts must call it, and get what host 0 sees: listings of shared folders
  may lag behind.
  """
  found = np.full(_MAX_CHECKPOINTS, -1, np.int32)
  seen = checkpoint.steps(folder)[:_MAX_CHECKPOINTS]
  found[: len(seen)] = seen
  return [int(step) for step in hosts.from_lead(found) if step >= 0]


def init_state(
  spec: StepSpec, config: Config, class_names: Sequence[str] = ()
) -> TrainState:
  """Returns the state at step 0: carried-over weights, or random ones.

  Args:
    spec: Of the run's step.
    config: Resolved.
    class_names: Names of the classes of the training set; () if unknown.

  Raises:
    InputError: config.init.checkpoint cannot be used.
  """
  # A bad file is found before anything is compiled.
  path = config.init.checkpoint
  loaded = weights.load(path) if path else None
  if loaded is not None:
    network.check_options(loaded.model_options, config.model)
    if config.init.keep_head:
      loaded = _ordered(loaded, class_names, path)
  state = make_init(spec)(config.seed)
  if loaded is None:
    return state
  params = carry_over(loaded, state.params, keep_head=config.init.keep_head)
  state = state.replace(params=_placed(params, state.params))
  if loaded.batch_stats and state.carried.get("batch_stats"):
    stats = _placed(loaded.batch_stats, state.carried["batch_stats"])
    state = state.replace(carried={**state.carried, "batch_stats": stats})
  return state


def _ordered(
  loaded: weights.Weights, class_names: Sequence[str], path: str
) -> weights.Weights:
  """Returns weights with the outputs in the order of the data set's classes."""
  # Other numbers of classes are refused with the shapes.
  if len(class_names) != loaded.num_classes:
    return loaded
  what = f"config.init.keep_head=true: the weights {path}"
  try:
    return classes.in_order(loaded, class_names, what)
  except InputError as e:
    raise InputError(
      f"{e}; use config.init.keep_head=false for a new head, or name their "
      f"outputs as in the data set: python -m bit_jax.tools.convert {path} "
      f"NEW.npz --layout=bit_jax --labels=FILE"
    ) from e


def carry_over(
  loaded: weights.Weights, params: Any, *, keep_head: bool
) -> dict[str, Any]:
  """Returns a fresh network's params with those of weights put in.

  The encoder must be the same. A head, which is everything beside the encoder,
  stays as it is in params unless it is to be kept and the weights have it.

  Args:
    loaded: The weights.
    params: Parameters of a new network.
    keep_head: True to take heads too, at least the classifier's.

  Raises:
    InputError: The weights belong to another variant, or the head is to be
      kept but has another number of classes.
  """
  fresh, carried = paths.flatten(params), paths.flatten(loaded.params)
  unused = [k for k in carried if models.is_encoder(k) and k not in fresh]
  if unused:
    raise InputError(
      f"config.init.checkpoint holds {loaded.variant}, which does not fit this "
      f"model: it has no {some(unused)}; expected model={loaded.variant}"
    )
  merged = {}
  for key, value in fresh.items():
    if not models.is_encoder(key) and not (
      keep_head and (key in carried or key.startswith("head/"))
    ):
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
