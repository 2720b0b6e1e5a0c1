"""Checks config values that can be judged without the data set."""

import math
import re

from jax.sharding import Mesh

from bit_jax import models
from bit_jax.errors import InputError, UsageError
from bit_jax.objectives import losses, named
from bit_jax.parallel import sharding
from bit_jax.recipe import hyperrule, load, words
from bit_jax.recipe.load import Config
from bit_jax.recipe.resolve import EVAL_CROPS, TRAIN_CROPS

_CHOICES = {
  "objective": tuple(named.OBJECTIVES),
  "loss": tuple(losses.LOSSES),
  "hyperrule": ("", *hyperrule.PRESETS),
  "model.dtype": ("float32", "bfloat16"),
  "model.norm": (*models.OPTIONS["norm"], ""),
  "model.remat": models.REMAT,
  "optim.momentum_dtype": ("float32", "bfloat16"),
  "input.train": TRAIN_CROPS,
  "input.eval": EVAL_CROPS,
}

# Smallest allowed values.
_AT_LEAST = {
  "seed": 0,
  "num_classes": 0,
  "total_steps": 0,
  "log_every_steps": 0,
  "watchdog_mins": 0,
  "data.examples_per_class": 0,
  "input.batch_size": 1,
  "input.resize_px": 0,
  "input.crop_px": 0,
  "input.num_threads": 0,
  "input.cache_mb": 0,
  "model.batch_group": 0,
  "schedule.decay_factor": 0,
  "optim.lr": 0,
  "optim.lr_batch_size": 0,
  "optim.momentum": 0,
  "optim.weight_decay": 0,
  "eval.every_steps": 0,
  "eval.early_stop_evals": 0,
  "eval.batch_size": 0,
  "checkpoint.every_steps": 0,
  "checkpoint.keep": 1,
  "checkpoint.keep_every_steps": 0,
  "optim.accum_steps": 0,
}


def check(config: Config, mesh: Mesh) -> None:
  """Checks a config before it is resolved.

  Raises:
    InputError: A value is not usable; the message names the key, the value and
      what was expected.
    UsageError: `config.resolved` was set by hand.
  """
  if config.model.variant:  # '': that of the weights, or the default.
    models.parse_variant(config.model.variant)
  for key, allowed in _CHOICES.items():
    if load.get(config, key) not in allowed:
      expected = ", ".join(map(repr, allowed))
      raise InputError(
        f"config.{key}={load.get(config, key)!r}: expected one of {expected}"
        + words.meant_value(load.get(config, key), allowed)
      )
  for key, least in _AT_LEAST.items():
    value = load.get(config, key)
    if not math.isfinite(value) or value < least:
      raise InputError(f"config.{key}={value}: expected {least} or more")
  if config.seed >= 2**31:
    raise InputError(f"config.seed={config.seed}: expected less than 2**31")
  if not config.data.name:
    raise InputError(
      "config.data.name is empty: expected a TFDS name, folder:PATH, glyphs or "
      "digits"
    )
  sharding.check_batch_size(
    config.input.batch_size, mesh, "config.input.batch_size"
  )
  if config.eval.batch_size:
    sharding.check_batch_size(
      config.eval.batch_size, mesh, "config.eval.batch_size"
    )
  group = config.model.batch_group
  if group and config.input.batch_size % group:
    raise InputError(
      f"config.model.batch_group={group}: expected a divisor of "
      f"config.input.batch_size={config.input.batch_size}, or 0"
    )
  parts = config.optim.accum_steps
  if parts and config.input.batch_size % (parts * mesh.size):
    raise InputError(
      f"config.optim.accum_steps={parts}: expected a divisor of the "
      f"{config.input.batch_size // mesh.size} examples a device has "
      f"(config.input.batch_size={config.input.batch_size} on {mesh.size} "
      f"devices)"
    )
  if parts > 1 and config.model.norm == "bn":
    raise InputError(
      f"config.optim.accum_steps={parts} gives other statistics with "
      f"config.model.norm='bn'; use config.model.norm='gn', or 1"
    )
  if config.optim.momentum >= 1:
    raise InputError(
      f"config.optim.momentum={config.optim.momentum}: expected less than 1"
    )
  named.OBJECTIVES[config.objective].check(config)
  for pattern in config.optim.freeze:
    try:
      re.compile(pattern)
    except re.error as e:
      raise InputError(
        f"config.optim.freeze: {pattern!r} is no regular expression: {e}"
      ) from e
  if any(config.resolved.values()):
    raise UsageError(
      "config.resolved holds what the rules give and cannot be set; set the "
      "rules, e.g. config.total_steps or config.optim.lr"
    )
