"""What a work directory says of its run: config.json and result.json.

A work directory belongs to one run. Going on in it with a config that would
give other numbers is refused, key by key.
"""

import dataclasses
import json
from collections.abc import Collection, Mapping
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh

from bit_jax import models
from bit_jax.data.preprocess import Preprocess
from bit_jax.errors import InputError
from bit_jax.recipe.load import GONE, Config
from bit_jax.run.sources import RunData
from bit_jax.storage import files

CONFIG, _RESULT, _HELD_OUT = "config.json", "result.json", "held_out.json"

# What may differ when a run goes on: it changes no number.
_FREE_KEYS = (
  "checkpoint.",
  *("data.dir", "data.class_list", "data.subset_file"),
  "eval.batch_size",
  "eval.every_steps",
  *("input.cache_mb", "input.num_threads"),
  "log_every_steps",
  "model.remat",
  "parallel.",
  "resume_changed",
  "watchdog_mins",
)

# What keys that came later were as good as before.
_MOMENTUM_DTYPE = "optim.momentum_dtype"
_ADDED = {_MOMENTUM_DTYPE: "float32"}
_ABSENT = "absent"


def _plain(config) -> dict[str, Any]:
  """Returns the config as JSON would read it back."""
  return json.loads(config.to_json())


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  flat = {}
  for key, value in tree.items():
    if isinstance(value, Mapping):
      flat |= _flat(value, f"{prefix}{key}.")
    else:
      flat[prefix + key] = value
  return flat


def _compared(tree: Mapping[str, Any]) -> dict[str, Any]:
  """Returns what of a config, as plain nested dicts, changes the numbers."""
  flat = _ADDED | _flat(tree)
  for key, (neutral, _) in GONE.items():
    if flat.get(key) == neutral:
      del flat[key]
  if str(flat.get("data.name")).startswith("folder:"):
    # It may be elsewhere, later or on another host; its fingerprint tells.
    flat["data.name"] = "folder"
  return {k: v for k, v in flat.items() if not k.startswith(_FREE_KEYS)}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
  """Lists the keys that would change a run's numbers, with both values.

  Args:
    old: a config as plain nested dicts.
    new: another one.

  Returns:
    Lines such as `optim.lr: 0.003 -> 0.001`; empty if the run may go on.
  """
  a, b = _compared(old), _compared(new)
  changed = [
    key
    for key in sorted(a.keys() | b.keys())
    if a.get(key, _ABSENT) != b.get(key, _ABSENT)
  ]
  old, new = _ADDED | _flat(old), _ADDED | _flat(new)
  return [
    f"{key}: {old.get(key, _ABSENT)!r} -> {new.get(key, _ABSENT)!r}"
    + (f" ({GONE[key][1]})" if key in GONE else "")
    for key in changed
  ]


def comparable(config: Config) -> str:
  """Returns all of a resolved config that changes a run's numbers, as text."""
  return json.dumps(_compared(_plain(config)), sort_keys=True)


def _refuse(what: object, changed: list[str]) -> InputError:
  return InputError(
    f"{what} belongs to a run with another config ({'; '.join(changed)}); use "
    f"another --workdir, or --config.resume_changed=true to go on with the "
    f"changes"
  )


def check_unchanged(workdir: epath.Path, config: Config) -> None:
  """Raises InputError if workdir belongs to another config; writes nothing.

  Args:
    workdir: need not exist.
    config: resolved.
  """
  path = workdir / CONFIG
  if not workdir.exists() or not _exists(path):
    return
  changed = differences(files.read_json(path), _plain(config))
  if changed and not config.resume_changed:
    raise _refuse(workdir, changed)


def check_checkpoint(
  path: epath.Path, metadata: Mapping[str, Any], config: Config
) -> None:
  """Raises InputError if a checkpoint was saved by a run of another config."""
  changed = differences(metadata.get("config", {}), _plain(config))
  for line in changed:
    if line.startswith(_MOMENTUM_DTYPE):
      # Restored in another type, its bits would not be those that were saved.
      raise InputError(
        f"{path} cannot be gone on from with {line}; use another --workdir, "
        f"with --config.init.checkpoint={path}"
      )
  if changed and not config.resume_changed:
    raise _refuse(path, changed)


def claim(
  workdir: epath.Path,
  config: Config,
  held_out: Collection[str],
  *,
  write: bool,
) -> None:
  """Makes a work directory this run's: writes config.json.

  Args:
    workdir: made if missing.
    config: resolved.
    held_out: see `read_held_out`.
    write: False on hosts that leave it to another one.

  Raises:
    InputError: workdir is not a folder or cannot be written to.
  """
  if not write:
    return
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    _write_json(workdir / CONFIG, _plain(config))
    if held_out:
      _write_json(workdir / _HELD_OUT, list(held_out))
  except OSError as e:
    raise InputError(f"--workdir={workdir} cannot be used: {e}") from e


def _exists(path: epath.Path) -> bool:
  try:
    return path.exists()
  except OSError as e:
    raise InputError(f"{path} cannot be read: {e}") from e


def _write_json(path: epath.Path, value: Any) -> None:
  files.write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_held_out(workdir: epath.Path) -> list[str]:
  """Returns the files that the run in workdir keeps for evaluation, if any."""
  path = workdir / _HELD_OUT
  return files.read_json(path, list) if _exists(path) else []


def read_result(workdir: epath.Path) -> dict[str, Any] | None:
  """Returns the result of a finished run, None where it is not finished."""
  path = workdir / _RESULT
  return files.read_json(path) if _exists(path) else None


def write_result(workdir: epath.Path, result: Mapping[str, Any]) -> None:
  """Writes result.json, the sign that a run is finished."""
  _write_json(workdir / _RESULT, result)


def summary(result: Mapping[str, Any]) -> str:
  """Returns a result as one line."""
  scalars = ", ".join(
    f"{key.removeprefix('eval/')} {value:.4g}"
    for key, value in result.items()
    if key.endswith(("accuracy", "loss"))
  )
  return f"step {result['step']}" + (f", {scalars}" if scalars else "")


def checkpoint_metadata(
  config: Config,
  class_names: tuple[str, ...],
  preprocess: Preprocess,
) -> dict[str, Any]:
  """Returns the JSON object that is saved with each checkpoint."""
  return {
    "config": _plain(config),
    "variant": config.model.variant,
    "class_names": list(class_names),
    "preprocess": dataclasses.asdict(preprocess),
    "model_options": models.non_default_options(config.model),
  }


def describe(
  config: Config,
  data: RunData,
  mesh: Mesh,
) -> str:
  """Returns what a person wants to read before a run starts."""
  r, train = config.resolved, data.train
  held = ", ".join(f"{s.name} ({len(s):,})" for s in data.evals.values())
  held = held or "nothing (config.data.eval_splits can say what)"
  device = mesh.devices.flat[0]
  weights = f"random, seed {config.seed}"
  if config.init.checkpoint:
    head = "with their head" if config.init.keep_head else "with a new head"
    weights = f"of {config.init.checkpoint}, {head}"
  return "\n".join(
    (
      f"{config.model.variant} on {mesh.size} x {device.device_kind}, "
      f"{config.model.dtype}; first weights: {weights}",
      f"train: {train.name} ({len(train):,} examples, {r.num_classes} classes)"
      f"; evaluate: {held}",
      f"images: {r.crop_px} px, {config.input.train} preprocessing, "
      f"{'random flip' if r.flip else 'no flip'}",
      f"steps: {r.total_steps:,} of {config.input.batch_size} examples, "
      f"learning rate {r.peak_lr:g} after {r.warmup_steps} steps of warm-up, "
      f"x {config.schedule.decay_factor:g} after "
      f"{', '.join(map(str, r.decay_steps)) or 'none'}; mixup "
      f"{r.mixup_alpha:g}; weight decay {config.optim.weight_decay:g}"
      + _schedule_warning(r),
    )
  )


def _schedule_warning(resolved: Config) -> str:
  """Returns a line about a schedule that never reaches its rate, or ''."""
  if 1 < resolved.total_steps <= resolved.warmup_steps:
    return (
      "\nwarning: the warm-up is as long as the run or longer; "
      "config.schedule.warmup='10 %' may be meant"
    )
  return ""


def describe_params(params: Any) -> str:
  """Returns the number of parameters, in all and by part, as one line."""
  parts = {
    name: sum(x.size for x in jax.tree.leaves(part))
    for name, part in params.items()
  }
  shares = ", ".join(f"{name} {size:,}" for name, size in parts.items())
  return f"parameters: {sum(parts.values()):,} ({shares})"
