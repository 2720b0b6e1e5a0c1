"""Describes a run in lines of text for people."""

from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from bit_jax.objectives import named
from bit_jax.recipe import load
from bit_jax.recipe.load import Config
from bit_jax.run.sources import RunData
from bit_jax.writers import metric_text


def summary(result: Mapping[str, Any]) -> str:
  """Returns the step and the main metrics of a result as one line."""
  scalars = ", ".join(
    f"{key.removeprefix('eval/')} {metric_text.number(key, value, 4)}"
    for key, value in result.items()
    if key.startswith("eval/") and not key.endswith("/examples")
  )
  text = f"step {result['step']}"
  if "best_step" in result:
    text += f", best at step {result['best_step']}"
  return f"{text}, {scalars}" if scalars else text


def describe(
  config: Config,
  data: RunData,
  mesh: Mesh,
) -> str:
  """Returns the description that is printed before a run starts."""
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
      f"learns: {_learns(config)}",
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


def _learns(config: Config) -> str:
  """Returns the name of the objective, and the fixed weights it reads."""
  if config.resolved.objective:
    return config.resolved.objective
  fixed = (
    f"{name} {load.get(config, key)}"
    for name, key in named.OBJECTIVES[config.objective].fixed.items()
  )
  return ", ".join((config.objective, *fixed))


def _schedule_warning(resolved: Config) -> str:
  """Returns a warning if the schedule never reaches its peak rate, else ''."""
  if 1 < resolved.total_steps <= resolved.warmup_steps:
    return (
      "\nwarning: the warm-up is as long as the run or longer; "
      "config.schedule.warmup='10 %' may be meant"
    )
  return ""


def describe_params(params: Any) -> str:
  """Returns the total and per-module number of parameters as one line."""
  parts = {
    name: sum(x.size for x in jax.tree.leaves(part))
    for name, part in params.items()
  }
  shares = ", ".join(f"{name} {size:,}" for name, size in parts.items())
  return f"parameters: {sum(parts.values()):,} ({shares})"
