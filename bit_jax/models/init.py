"""Random parameters to start from, and BatchNorm's first running statistics."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from bit_jax.models import paths
from bit_jax.models.resnet import ResNetV2


def _abstract_variables(model: ResNetV2, image_px: int) -> dict[str, Any]:
  image = jax.ShapeDtypeStruct((1, image_px, image_px, 3), jnp.float32)
  return jax.eval_shape(model.init, jax.random.key(0), image)


def init_batch_stats(model: ResNetV2, image_px: int) -> dict[str, Any]:
  """Returns the running statistics to start from; {} without BatchNorm.

  Args:
    model: of `models.create`.
    image_px: side of an image the network can be applied to.
  """
  if model.norm != "bn":
    return {}
  shapes = _abstract_variables(model, image_px)["batch_stats"]
  flat = {
    path: jnp.full(x.shape, float(path.endswith("var")), x.dtype)
    for path, x in paths.flatten(shapes).items()
  }
  return paths.unflatten(flat)


@functools.partial(jax.jit, static_argnums=(0, 2))
def init_params(
  model: ResNetV2, rng: jax.Array, image_px: int
) -> dict[str, Any]:
  """Draws random parameters, distributed as those of `model.init`.

  All kernels are slices of one draw: a generator for each of them, as
  `model.init` has, takes XLA over 20 times as long to compile.

  Args:
    model: of `models.create`.
    rng: a key.
    image_px: side of an image the network can be applied to.

  Returns:
    The nested dict of float32 parameters.
  """
  shapes = _abstract_variables(model, image_px)["params"]
  flat = paths.flatten(shapes)
  constants = {"scale": 1.0, "bias": 0.0, "head/bias": model.head_bias}
  kernels = [
    path for path in flat if path.endswith("kernel") and path != "head/kernel"
  ]
  total = sum(flat[path].size for path in kernels)
  # Truncated at two standard deviations and scaled to lecun_normal's variance.
  noise = jax.random.truncated_normal(rng, -2.0, 2.0, (total,)) / 0.87962566
  params, start = {}, 0
  for path, leaf in flat.items():
    if path in kernels:
      fan_in = math.prod(leaf.shape[:-1])
      draw = noise[start : start + leaf.size].reshape(leaf.shape)
      params[path] = draw / math.sqrt(fan_in)
      start += leaf.size
    else:
      last = path.rsplit("/", 1)[-1]
      value = constants.get(path, constants.get(last, 0.0))
      params[path] = jnp.full(leaf.shape, value, leaf.dtype)
  return paths.unflatten(params)
