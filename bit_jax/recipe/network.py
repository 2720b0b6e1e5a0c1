"""Resolves which network a config means: without a name, that of its weights.

`config.model.variant` and `config.model.norm` are '' where a config leaves them
open. They are filled in once at start, before the data is read, and stored in
config.json like this.
"""

from collections.abc import Mapping
from typing import Any

from bit_jax import models, weights
from bit_jax.errors import InputError
from bit_jax.recipe.load import Config, same_value

# Without a name and without weights, as in the paper's smallest model.
DEFAULT_VARIANT = "R50x1"

_WEIGHTS = "init.checkpoint"


def is_resolved(config: Config) -> bool:
  """Returns True if a config says itself which network it means."""
  return bool(config.model.variant and config.model.norm)


def resolve(
  config: Config,
  *,
  stored: Mapping[str, Any] | None = None,
  check: bool = True,
  required: bool = True,
) -> Config:
  """Returns a copy of a config that says which network it means.

  Of the weights, metadata and shapes are read, and none of a release, whose
  name tells.

  Args:
    config: Its `init.checkpoint` names the weights.
    stored: The config.json of the run that goes on, if any. Its network is
      taken as it is: the weights may be gone since.
    check: False lets a config name another network than its weights have, for
      an objective that brings a network of its own.
    required: False lets weights be missing if the config names the variant.

  Raises:
    InputError: The weights cannot be read, or have another network than the
      config names.
  """
  if stored is not None:
    config = as_stored(config, stored)
    if is_resolved(config):
      return config
    # Weights are named that the run did not start from. It has its network, and
    # the change of the config is judged elsewhere.
    check = required = False
  config = config.copy_and_resolve_references()
  path, found = config.init.checkpoint, None
  if path and (check or not is_resolved(config)):
    try:
      found = weights.network_of(path)
    except InputError as e:
      if required or not config.model.variant:
        raise InputError(f"config.{_WEIGHTS}: {e}") from e
  if found and check:
    _check_variant(found.variant, config)
  _fill(config, *(found or (DEFAULT_VARIANT, {})))
  if found and check:
    check_options(found.options, config.model)
  return config


def assume(config: Config) -> Config:
  """Returns what `resolve` does, or the default if the weights are missing."""
  try:
    return resolve(config, check=False, required=False)
  except InputError:
    config = config.copy_and_resolve_references()
    _fill(config, DEFAULT_VARIANT, {})
    return config


def variant(model: str, checkpoint: str) -> str:
  """Returns the variant that a study names in its title.

  Args:
    model: The argument `model=`; '' for the variant of the weights.
    checkpoint: The weights; '' for none. Where they cannot be read, which ends
      the runs and not the tables, the default is named.
  """
  if model or not checkpoint:
    return model or DEFAULT_VARIANT
  try:
    return weights.network_of(checkpoint).variant
  except InputError:
    return DEFAULT_VARIANT


def as_stored(config: Config, stored: Mapping[str, Any]) -> Config:
  """Returns a copy of a config with what a stored one says of the network.

  Args:
    config: What it leaves open is filled in, unless it names other weights than
      the stored one. Without weights, the default does not depend on `stored`.
    stored: A config.json as nested dicts.
  """
  config = config.copy_and_resolve_references()
  path = config.init.checkpoint
  if not path:
    _fill(config, DEFAULT_VARIANT, {})
    return config
  before, model = stored.get("init", {}), stored.get("model", {})
  if "variant" in model and same_value(
    _WEIGHTS, path, before.get("checkpoint", "")
  ):
    options = {key: model[key] for key in models.OPTIONS if key in model}
    _fill(config, model["variant"], options)
  return config


def _fill(config: Config, variant: str, options: Mapping[str, Any]) -> None:
  """Fills in what a config leaves open."""
  model = config.model
  model.variant = model.variant or variant
  if model.norm:
    return
  # With an open norm, True is open as well: it is the default.
  for key, values in models.OPTIONS.items():
    if key == "norm" or model[key] == values[0]:
      model[key] = options.get(key, values[0])


def _check_variant(variant: str, config: Config) -> None:
  named = config.model.variant
  if not named or models.parse_variant(named) == models.parse_variant(variant):
    return
  raise InputError(
    f"config.{_WEIGHTS}={config.init.checkpoint} holds {variant}, but "
    f"config.model.variant={named!r}: expected model={variant}, or no model=, "
    f"which takes the network of the weights"
  )


def check_options(have: Mapping[str, Any], model: Mapping[str, Any]) -> None:
  """Raises InputError if weights mean another network, whatever their shapes.

  Args:
    have: The `model_options` of the weights.
    model: The section `config.model`, with an answer to all of them.
  """
  want = models.non_default_options(model)
  keys = [key for key in models.OPTIONS if have.get(key) != want.get(key)]
  if keys:
    raise InputError(
      f"config.{_WEIGHTS} holds weights of a network with "
      f"{models.spell_options(have, keys)}, but config.model has "
      f"{models.spell_options(want, keys)}"
    )
