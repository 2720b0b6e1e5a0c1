"""Folds the weight standardization of a network into its parameters."""

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

  Standardization then happens once and not at each use, which helps inference
  and gradients that are summed over parts of a batch. It can be used inside jit
  and differentiated.

  Args:
    network: A network of `models.create`, or a module with one among its
      attributes.
    params: The parameters of the network.

  Returns:
    (network, params), with the same outputs as before. Kernels that were
    standardized are at least float32; all other arrays, including those of
    convolutional heads, are the same objects that were passed.
  """
  plain = unstandardized(network)
  if plain is network:
    return network, dict(params)
  # A head may have standardized convolutions that are not switched off here.
  # They standardize once more, which only changes rounding.
  standardized = init.trace(network).standardized
  flat = {
    path: standardize(x) if path in standardized else x
    for path, x in paths.flatten(params).items()
  }
  return plain, paths.unflatten(flat)


def unstandardized(network: nn.Module) -> Any:
  """Returns the network with `weight_standardization` off wherever it is on.

  If it is off everywhere, the network itself is returned.
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
