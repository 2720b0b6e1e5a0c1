"""Takes weight standardization out of a network and into its parameters."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from bit_jax.models import init, paths
from bit_jax.models.layers import standardize


def fold(
  network: nn.Module, params: Mapping[str, Any]
) -> tuple[Any, dict[str, Any]]:
  """Returns a network without standardization, and parameters for it.

  So that it happens once, not at each use: for inference, or for gradients that
  are summed over parts of a batch. Inside jit, or differentiated, as needed.

  Args:
    network: A network of `models.create`, or a module with one among its
      attributes.
    params: Its parameters.

  Returns:
    (network, params), which give the same outputs. Kernels that were
    standardized are in float32 at least; all other arrays, those of
    convolutional heads as well, are the very ones that were passed.
  """
  plain = unstandardized(network)
  if plain is network:
    return network, dict(params)
  # A head may have standardized convolutions that are not switched off here:
  # they standardize once more, which changes nothing but rounding.
  standardized = init.trace(network).standardized
  flat = {
    path: standardize(x) if path in standardized else x
    for path, x in paths.flatten(params).items()
  }
  return plain, paths.unflatten(flat)


def unstandardized(network: nn.Module) -> Any:
  """Returns the network with `weight_standardization` off wherever it is on.

  The very same object where it is off already.
  """
  changes: dict[str, Any] = {}
  for field in dataclasses.fields(network):
    value = getattr(network, field.name, None)
    if field.name == "weight_standardization" and value:
      changes[field.name] = False
    elif isinstance(value, nn.Module) and field.name != "parent":
      plain = unstandardized(value)
      if plain is not value:
        changes[field.name] = plain
  return network.clone(**changes) if changes else network
