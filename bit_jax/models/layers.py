"""The layers of BiT's network: standardized convolutions and normalizations.

Statistics are in float32 at least, whatever the input: bf16 is promoted,
float64 never demoted.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bit_jax.models import ops
from bit_jax.models.ops import at_least_float32

GROUPS = 32  # Paper section 3.1; fewer only where a layer has fewer channels.


def _compute_dtype(dtype: Any, param: jax.Array) -> Any:
  """The layer's own dtype, unless the parameters are float64."""
  return jnp.float64 if param.dtype == jnp.float64 else jnp.dtype(dtype)


def standardize(kernel: jax.Array, eps: float = 1e-10) -> jax.Array:
  """Gives each output channel of a kernel zero mean and unit variance.

  Weight standardization (arXiv 1903.10520) as BiT uses it: population variance
  over (height, width, input channels), eps inside the root.

  Args:
    kernel: [H, W, I, O], any float dtype.
    eps: added to the variance.

  Returns:
    [H, W, I, O] in float32, or float64 for a float64 kernel.
  """
  kernel = kernel.astype(at_least_float32(kernel.dtype))
  # One pass, from the sums of kernel - shift and of its square. The result does
  # not depend on the shift, so neither does the gradient.
  centred = kernel - jax.lax.stop_gradient(kernel[:1, :1, :1])
  mean = centred.mean((0, 1, 2))
  variance = jnp.square(centred).mean((0, 1, 2)) - jnp.square(mean)
  return (centred - mean) * jax.lax.rsqrt(jnp.maximum(variance, 0) + eps)


class StdConv(nn.Module):
  """Convolution without bias whose kernel is standardized on every use.

  Attributes:
    features: output channels.
    kernel_px: side of the square kernel; the image is padded with
      (kernel_px - 1) // 2 zeros on each side.
    stride: in both directions.
    dtype: of the multiplication; the standardization is in float32 at least.
    standardized: False for a plain convolution (the paper's ablation).
  """

  features: int
  kernel_px: int = 1
  stride: int = 1
  dtype: Any = jnp.float32
  standardized: bool = True

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [N, H, W, I] to [N, H / stride, W / stride, features]."""
    shape = (self.kernel_px, self.kernel_px, x.shape[-1], self.features)
    kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
    dtype = _compute_dtype(self.dtype, kernel)
    if self.standardized:
      kernel = standardize(kernel)
    return ops.conv(x.astype(dtype), kernel.astype(dtype), self.stride)


class GroupNorm(nn.Module):
  """Group normalization (arXiv 1803.08494) over 32 groups, eps 1e-5.

  Statistics are in float32 at least, whatever the input; the output has the
  input's dtype.
  """

  groups: int = GROUPS
  eps: float = 1e-5

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Normalizes [N, H, W, C] over (H, W, channels of a group)."""
    channels = x.shape[-1]
    scale = self.param("scale", nn.initializers.ones, (channels,))
    bias = self.param("bias", nn.initializers.zeros, (channels,))
    groups = min(self.groups, channels)
    return ops.group_norm(x, scale, bias, groups, self.eps)


class BatchNorm(nn.Module):
  """Batch normalization (arXiv 1502.03167), for the paper's ablation.

  In training, statistics are those of `group` consecutive examples of the
  global batch: what a device would see alone, on any number of devices.
  Running averages, for evaluation, are in the collection `batch_stats`.

  Attributes:
    group: examples that share statistics; 0 for the whole global batch.
    momentum: of the running averages (not in the paper).
    eps: added to the variance.
  """

  group: int = 0
  momentum: float = 0.9
  eps: float = 1e-5

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Normalizes [N, H, W, C] over (examples of a group, H, W)."""
    shape, channels = x.shape, x.shape[-1]
    scale = self.param("scale", nn.initializers.ones, (channels,))
    bias = self.param("bias", nn.initializers.zeros, (channels,))
    mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
    var = self.variable("batch_stats", "var", jnp.ones, (channels,))
    y = x.astype(at_least_float32(x.dtype))
    if train:
      y = y.reshape(-1, self.group or shape[0], *shape[1:])
      axes = (1, 2, 3)
      centre = y.mean(axes, keepdims=True)
      spread = jnp.square(y - centre).mean(axes, keepdims=True)
      for running, now in ((mean, centre), (var, spread)):
        now = now.reshape(-1, channels).mean(0)
        running.value += (1 - self.momentum) * (now - running.value)
    else:
      centre, spread = mean.value, var.value
    y = (y - centre) * (jax.lax.rsqrt(spread + self.eps) * scale) + bias
    return y.reshape(shape).astype(x.dtype)


@dataclasses.dataclass(frozen=True)
class Layers:
  """Which convolution and which normalization a network is made of.

  Attributes:
    dtype: of the convolutions.
    norm: `gn`, or `bn` for the ablation.
    weight_standardization: False for plain convolutions, for the ablation.
    batch_group: see `BatchNorm.group`.
  """

  dtype: Any = jnp.float32
  norm: str = "gn"
  weight_standardization: bool = True
  batch_group: int = 0

  def conv(
    self, features: int, name: str, *, kernel_px: int = 1, stride: int = 1
  ) -> StdConv:
    """Returns a convolution; see `StdConv`."""
    return StdConv(
      features,
      kernel_px,
      stride,
      self.dtype,
      self.weight_standardization,
      name=name,
    )

  def norm_relu(self, x: jax.Array, name: str, *, train: bool) -> jax.Array:
    """Normalizes [N, H, W, C] and applies ReLU."""
    if self.norm == "bn":
      return nn.relu(BatchNorm(self.batch_group, name=name)(x, train=train))
    return nn.relu(GroupNorm(name=name)(x))
