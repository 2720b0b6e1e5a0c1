"""Loads the weights that an objective reads and never changes: a teacher."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from bit_jax import models, weights
from bit_jax.errors import InputError
from bit_jax.evaluate import inference
from bit_jax.parallel import sharding
from bit_jax.recipe.load import Config
from bit_jax.storage import digest


class Fixed(NamedTuple):
  """Fixed weights of a run, by the name that the objective has for them.

  Attributes:
    networks: The networks, {} without fixed weights.
    arrays: Their folded variables on all devices, () without fixed weights.
  """

  networks: Mapping[str, Any] = {}
  arrays: Any = ()


def load(
  config: Config,
  class_names: Sequence[str],
  mesh: Mesh,
  *,
  abstract: bool = False,
) -> Fixed:
  """Loads the weights that a config names beside those it trains.

  Args:
    config: Resolved.
    class_names: Names of the classes of the training set; () if unknown.
    mesh: Every device holds the weights whole.
    abstract: True for jax.ShapeDtypeStruct instead of arrays, on devices that
      only compile.

  Raises:
    InputError: The weights cannot be used, or have other classes.
  """
  if config.objective != "distill":
    return Fixed()
  key = "config.distill.teacher"
  path = config.distill.teacher
  if not path:
    raise InputError(
      f"{key} is empty: expected a .npz, a work directory, a checkpoint or the "
      f"name of a release"
    )
  teacher = weights.load(path)
  if teacher.num_classes != config.resolved.num_classes:
    raise InputError(
      f"{key}={path} has {teacher.num_classes} classes, but the data set has "
      f"{config.resolved.num_classes}: fine-tune the teacher on it first"
    )
  known = teacher.class_names and class_names
  if known and teacher.class_names != tuple(class_names):
    pairs = zip(teacher.class_names, class_names, strict=True)
    mine, other = next(pair for pair in pairs if pair[0] != pair[1])
    raise InputError(
      f"{key}={path} has other class names than the data set, or another "
      f"order: {mine!r} instead of {other!r}"
    )
  network, variables = inference.network(teacher)
  if abstract:
    folded = jax.eval_shape(
      lambda v: {**v, "params": models.fold(network, v["params"])[1]}, variables
    )
    arrays = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(
        x.shape, x.dtype, sharding=sharding.replicated(mesh)
      ),
      folded,
    )
  else:
    arrays = inference.for_inference(network, mesh)[1](variables)
  return Fixed({"teacher": network}, {"teacher": arrays})


def digest_of(arrays: Any) -> str:
  """Returns a short hex string that any changed bit changes; '' for ()."""
  if not arrays:
    return ""
  text = json.dumps(digest.compute(arrays), sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]
