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

from bit_jax import losses, models
from bit_jax.data.preprocess import Preprocess
from bit_jax.data.run_data import RunData
from bit_jax.errors import InputError
from bit_jax.recipe import Config

_HELD_OUT = "held_out.json"

# What may differ when a run goes on: it changes no number.
_FREE_KEYS = (
  "checkpoint.",
  "data.dir",
  "eval.batch_size",
  "eval.every_steps",
  "input.num_threads",
  "log_every_steps",
  "resume_changed",
)


def check(config: Config) -> None:
  """Raises InputError for values that no later step would explain as well."""
  models.parse_variant(config.model.variant)
  choices = {
    "config.loss": (config.loss, tuple(losses.LOSSES)),
    "config.model.dtype": (config.model.dtype, ("float32", "bfloat16")),
    "config.input.train": (
      config.input.train,
      ("hyperrule", "inception", "none"),
    ),
    "config.input.eval": (config.input.eval, ("square", "central")),
    "config.hyperrule": (config.hyperrule, ("", "paper", "code")),
  }
  for key, (value, allowed) in choices.items():
    if value not in allowed:
      expected = ", ".join(repr(a) for a in allowed)
      raise InputError(f"{key}={value!r}: expected one of {expected}")
  if config.log_every_steps <= 0:
    raise InputError(
      f"config.log_every_steps={config.log_every_steps}: expected 1 or more"
    )
  if config.checkpoint.keep <= 0:
    raise InputError(
      f"config.checkpoint.keep={config.checkpoint.keep}: expected 1 or more"
    )
  if config.total_steps < 0:
    raise InputError(
      f"config.total_steps={config.total_steps}: expected 0 (by the rule) or "
      f"more"
    )


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


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
  """Lists the keys that would change a run's numbers, with both values.

  Args:
    old: a config as plain nested dicts.
    new: another one.

  Returns:
    Lines such as `optim.lr: 0.003 -> 0.001`; empty if the run may go on.
  """
  old, new = _flat(old), _flat(new)

  def value(flat, key):
    found = flat.get(key, "absent")
    if key == "data.name" and str(found).startswith("folder:"):
      return "folder"  # It may have moved; its fingerprint is compared.
    return found

  return [
    f"{key}: {old.get(key, 'absent')!r} -> {new.get(key, 'absent')!r}"
    for key in sorted(old.keys() | new.keys())
    if not key.startswith(_FREE_KEYS) and value(old, key) != value(new, key)
  ]


def claim(
  workdir: epath.Path,
  config: Config,
  held_out: Collection[str],
  *,
  write: bool,
) -> None:
  """Makes a work directory this run's, or checks that it is already.

  Args:
    workdir: made if missing.
    config: resolved.
    held_out: see `read_held_out`.
    write: False on hosts that only check.

  Raises:
    InputError: workdir is not a folder or belongs to another config.
  """
  path, new = workdir / "config.json", _plain(config)
  try:
    if path.exists():
      changed = differences(json.loads(path.read_text()), new)
      if changed and not config.resume_changed:
        raise InputError(
          f"{workdir} belongs to a run with another config ("
          f"{'; '.join(changed)}); use another --workdir, or "
          f"--config.resume_changed=true to go on with the changes"
        )
    if write:
      workdir.mkdir(parents=True, exist_ok=True)
      _write_json(path, new)
      if held_out:
        _write_json(workdir / _HELD_OUT, list(held_out))
  except OSError as e:
    raise InputError(f"--workdir={workdir} cannot be used: {e}") from e
  except json.JSONDecodeError as e:
    raise InputError(f"{path} is not JSON: {e}") from e


def _write_json(path: epath.Path, value: Any) -> None:
  part = path.with_name(path.name + ".part")
  part.write_text(json.dumps(value, indent=2) + "\n")
  part.replace(path)


def read_held_out(workdir: epath.Path) -> list[str]:
  """Returns the files that the run in workdir keeps for evaluation, if any."""
  path = workdir / _HELD_OUT
  return json.loads(path.read_text()) if path.exists() else []


def read_result(workdir: epath.Path) -> dict[str, Any] | None:
  """Returns the result of a finished run, None where it is not finished."""
  path = workdir / "result.json"
  return json.loads(path.read_text()) if path.exists() else None


def write_result(workdir: epath.Path, result: Mapping[str, Any]) -> None:
  """Writes result.json, the sign that a run is finished."""
  _write_json(workdir / "result.json", result)


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
  }


def describe(
  config: Config,
  data: RunData,
  mesh: Mesh,
) -> str:
  """Returns what a person wants to read before a run starts."""
  r, train = config.resolved, data.train
  held = ", ".join(f"{s.name} ({len(s):,})" for s in data.evals.values())
  device = mesh.devices.flat[0]
  return "\n".join(
    (
      f"{config.model.variant} on {mesh.size} x {device.device_kind}, "
      f"{config.model.dtype}",
      f"train: {train.name} ({len(train):,} examples, {r.num_classes} classes)"
      f"; evaluate: {held or 'none'}",
      f"images: {r.crop_px} px, {config.input.train} preprocessing, "
      f"{'random flip' if r.flip else 'no flip'}",
      f"steps: {r.total_steps:,} of {config.input.batch_size} examples, "
      f"learning rate {r.peak_lr:g} after {r.warmup_steps} steps of warm-up, "
      f"x {config.schedule.decay_factor:g} after "
      f"{', '.join(map(str, r.decay_steps)) or 'none'}; mixup "
      f"{r.mixup_alpha:g}; weight decay {config.optim.weight_decay:g}",
    )
  )


def describe_params(params: Any) -> str:
  """Returns the number of parameters, in all and by part, as one line."""
  parts = {
    name: sum(x.size for x in jax.tree.leaves(part))
    for name, part in params.items()
  }
  shares = ", ".join(f"{name} {size:,}" for name, size in parts.items())
  return f"parameters: {sum(parts.values()):,} ({shares})"
