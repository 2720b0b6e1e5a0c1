"""Loads the weights that an objective reads and never changes: a teacher."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bit_jax import weights
from bit_jax.errors import InputError
from bit_jax.evaluate import inference
from bit_jax.objectives import named
from bit_jax.parallel import sharding
from bit_jax.recipe import load as load_config
from bit_jax.recipe.load import Config


class Fixed(NamedTuple):
  """Fixed weights of a run, by the name that the objective has for them.

  Attributes:
    networks: Their networks.
    variables: {"params": ..., "batch_stats": ...} of each, on the host.
  """

  networks: Mapping[str, Any]
  variables: Mapping[str, Any]


def load(
  config: Config, class_names: Sequence[str] = (), *, abstract: bool = False
) -> Fixed:
  """Loads the weights that a config names beside those it trains.

  Args:
    config: Resolved.
    class_names: Names of the classes of the training set; () if unknown.
    abstract: True for jax.ShapeDtypeStruct instead of arrays.

  Raises:
    InputError: The weights cannot be used, or have other classes.
  """
  networks, variables = {}, {}
  for name, key in named.OBJECTIVES[config.objective].fixed.items():
    path = load_config.get(config, key)
    try:
      with weights.open_lazily(path) as loaded:
        _check_classes(f"weights {path}", loaded, config, class_names)
        network, arrays = inference.network(loaded)
        variables[name] = (
          sharding.abstract(arrays)
          if abstract
          else jax.tree.map(np.asarray, arrays)
        )
    except InputError as e:
      raise InputError(f"config.{key}: {e}") from e
    # It computes in the type of the network that is trained.
    networks[name] = network.clone(dtype=jnp.dtype(config.model.dtype))
  return Fixed(networks, variables)


def _check_classes(
  what: str,
  loaded: weights.Weights,
  config: Config,
  class_names: Sequence[str],
) -> None:
  if loaded.num_classes != config.resolved.num_classes:
    raise InputError(
      f"{what} have {loaded.num_classes} classes, but the data set has "
      f"{config.resolved.num_classes}: fine-tune them on the data set first"
    )
  known = loaded.class_names and class_names
  if known and loaded.class_names != tuple(class_names):
    pairs = zip(loaded.class_names, class_names, strict=True)
    theirs, ours = next(pair for pair in pairs if pair[0] != pair[1])
    raise InputError(
      f"{what} have other class names than the data set, or another order: "
      f"{theirs!r} instead of {ours!r}"
    )


def digest(arrays: Any) -> str:
  """Returns a short hex string that any changed bit changes; '' for no array.

  Of the arrays as they were loaded, before anything is computed of them: it
  must be the same on every kind of device.
  """
  leaves = jax.tree.leaves_with_path(arrays)
  if not leaves:
    return ""
  digest = hashlib.sha256()
  for path, leaf in leaves:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      leaf = jax.random.key_data(leaf)
    array = np.ascontiguousarray(leaf)
    digest.update(f"{jax.tree_util.keystr(path)} {array.dtype}".encode())
    digest.update(array.view(np.uint8).data if array.size else b"")
  return digest.hexdigest()[:16]


def place(fixed: Fixed, mesh: Mesh) -> Any:
  """Returns folded variables, whole on all devices; () if there are none.

  All hosts must call it, with the same weights.

  Args:
    fixed: The weights; of jax.ShapeDtypeStruct, the result is so too.
    mesh: The devices.
  """
  placed = {}
  for name, variables in fixed.variables.items():
    network = fixed.networks[name]
    if isinstance(jax.tree.leaves(variables)[0], jax.ShapeDtypeStruct):
      placed[name] = inference.abstract_prepared(network, variables, mesh)
    else:
      placed[name] = inference.for_inference(network, mesh)[1](variables)
  return placed or ()
