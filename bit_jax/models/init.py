"""Initializes the variables of any network with a short compile time.

`trace` runs a network once, abstractly, and is the only place that looks at its
modules. Functions that must tell a convolution of the encoder from one of a
head (`init_variables`, `folding.fold`) use it, and never a rank or a name.
"""

import functools
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.extend
import jax.numpy as jnp

from bit_jax.models import paths
from bit_jax.models.layers import StdConv

# Parameters do not depend on the size of an image, and every network can be
# applied to an image of this size.
_IMAGE_PX = 64


class Trace(NamedTuple):
  """The results of one abstract run of a network's `init`.

  Attributes:
    shapes: {collection: nested dict of jax.ShapeDtypeStruct}, e.g. `params`
      and, with BatchNorm, `batch_stats`.
    standardized: Paths of the kernels that are standardized when used.
    init: The jaxpr of `init`, from key and image to the leaves of `shapes`.
  """

  shapes: dict[str, Any]
  standardized: frozenset[str]
  init: Any


@functools.lru_cache(maxsize=32)
def trace(network: Any) -> Trace:
  """Runs a network's `init` abstractly; computes nothing.

  Args:
    network: A Flax module that takes float32[N, H, W, 3].
  """
  standardized = set()

  def record(call, args, kwargs, context):
    module = context.module
    if isinstance(module, StdConv) and module.standardized:
      standardized.add("/".join((*module.path, "kernel")))
    return call(*args, **kwargs)

  image = jax.ShapeDtypeStruct((1, _IMAGE_PX, _IMAGE_PX, 3), jnp.float32)
  with nn.intercept_methods(record):
    jaxpr, shapes = jax.make_jaxpr(network.init, return_shape=True)(
      jax.eval_shape(jax.random.key, 0), image
    )
  return Trace(shapes, frozenset(standardized), jaxpr)


@functools.partial(jax.jit, static_argnums=0)
def init_variables(network: Any, rng: jax.Array) -> dict[str, Any]:
  """Draws the variables of a network, distributed as those of `network.init`.

  The standardized kernels are slices of one draw: a generator for each of them,
  as in `network.init`, takes XLA over 20 times as long to compile. All else
  (heads, normalizations, running statistics) has its module's own initializer.

  Args:
    network: A Flax module that takes float32[N, H, W, 3].
    rng: The random key.

  Returns:
    {collection: nested dict of arrays}, e.g. `params` and, with BatchNorm,
    `batch_stats`.
  """
  traced = trace(network)
  leaves, structure = jax.tree.flatten(traced.shapes)
  image = jnp.zeros((1, _IMAGE_PX, _IMAGE_PX, 3))
  # The unused parts, the kernels and the forward pass, are never compiled.
  values = jax.extend.core.jaxpr_as_fun(traced.init)(
    jax.random.fold_in(rng, 0), image
  )
  assert len(values) == len(leaves)
  variables = jax.tree.unflatten(structure, values)
  flat = paths.flatten(variables["params"])
  kernels = [path for path in flat if path in traced.standardized]
  total = sum(flat[path].size for path in kernels)
  # Truncated at two standard deviations and scaled to lecun_normal's variance.
  noise = jax.random.truncated_normal(rng, -2.0, 2.0, (total,)) / 0.87962566
  start = 0
  for path in kernels:
    shape, size = flat[path].shape, flat[path].size
    draw = noise[start : start + size].reshape(shape)
    flat[path] = draw / math.sqrt(math.prod(shape[:-1]))
    start += size
  return {**variables, "params": paths.unflatten(flat)}
