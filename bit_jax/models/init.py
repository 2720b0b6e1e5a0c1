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
    init_others: The jaxpr from key and image to the leaves of `shapes` that are
      no such kernels, in their order.
  """

  shapes: dict[str, Any]
  standardized: frozenset[str]
  init_others: Any


@functools.lru_cache(maxsize=32)
def trace(network: Any) -> Trace:
  """Runs a network's `init` abstractly; computes nothing.

  Args:
    network: A Flax module that takes float32[N, H, W, 3].
  """
  standardized, shapes = set(), {}

  def record(call, args, kwargs, context):
    module = context.module
    if isinstance(module, StdConv) and module.standardized:
      standardized.add("/".join((*module.path, "kernel")))
    return call(*args, **kwargs)

  def init_others(rng, image):
    variables = dict(network.init(rng, image))
    shapes.update(
      jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), variables)
    )
    params = paths.flatten(variables["params"])
    for path in standardized:
      params[path] = None
    return jax.tree.leaves({**variables, "params": paths.unflatten(params)})

  image = jax.ShapeDtypeStruct((1, _IMAGE_PX, _IMAGE_PX, 3), jnp.float32)
  with nn.intercept_methods(record):
    jaxpr = jax.make_jaxpr(init_others)(
      jax.eval_shape(jax.random.key, 0), image
    )
  return Trace(shapes, frozenset(standardized), _without_unused(jaxpr))


def _without_unused(closed: Any) -> Any:
  """Returns a jaxpr without what its results do not need: the forward pass.

  XLA would drop it too, but only after JAX has traced and lowered it again.
  """
  jaxpr, kept = closed.jaxpr, []
  needed = {x for x in jaxpr.outvars if isinstance(x, jax.extend.core.Var)}
  for eqn in reversed(jaxpr.eqns):
    if needed.intersection(eqn.outvars):
      kept.append(eqn)
      needed.update(x for x in eqn.invars if isinstance(x, jax.extend.core.Var))
  return closed.replace(jaxpr=jaxpr.replace(eqns=kept[::-1]))


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
  image = jnp.zeros((1, _IMAGE_PX, _IMAGE_PX, 3))
  others = iter(
    jax.extend.core.jaxpr_as_fun(traced.init_others)(
      jax.random.fold_in(rng, 0), image
    )
  )
  flat = paths.flatten(traced.shapes["params"])
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
  variables = {**traced.shapes, "params": paths.unflatten(flat)}
  return jax.tree.map(
    lambda x: next(others) if isinstance(x, jax.ShapeDtypeStruct) else x,
    variables,
  )
