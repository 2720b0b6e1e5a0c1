"""The layers of BiT's network: standardized convolutions and normalizations.

Statistics are computed in at least float32: bfloat16 is promoted, float64 is
never demoted.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bit_jax.models import ops
from bit_jax.models.ops import at_least_float32

# Paper section 3.1; a layer with fewer channels has one group per channel.
GROUPS = 32


def _compute_dtype(dtype: Any, param: jax.Array) -> Any:
  """Returns the layer's dtype, or float64 if the parameters are float64."""
  return jnp.float64 if param.dtype == jnp.float64 else jnp.dtype(dtype)


def standardize(kernel: jax.Array, eps: float = 1e-10) -> jax.Array:
  """Returns a kernel with zero mean and unit variance per output channel.

  Weight standardization (arXiv 1903.10520) as in BiT: population variance over
  (height, width, input channels), eps inside the root.

  Args:
    kernel: Kernel [H, W, I, O] of any float dtype.
    eps: Added to the variance.

  Returns:
    [H, W, I, O] in float32, or float64 for a float64 kernel.
  """
  kernel = kernel.astype(at_least_float32(kernel.dtype))
  centred, variance = ops.centre(kernel)
  return centred * jax.lax.rsqrt(variance + eps)


class StdConv(nn.Module):
  """Convolution without bias whose kernel is standardized on every use.

  Attributes:
    features: Number of output channels.
    kernel_px: Side of the square kernel; the image is padded with
      (kernel_px - 1) // 2 zeros on each side.
    stride: Stride in both directions.
    dtype: Dtype of the convolution; the standardization is in at least float32.
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
  """Group normalization (arXiv 1803.08494).

  Statistics are computed in at least float32; the output has the input's dtype.

  Attributes:
    groups: Number of groups; with fewer channels, each is a group.
    eps: Added to the variance.
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
  global batch, as if a device had these alone, on any number of devices.
  Running averages, for evaluation, are in the collection `batch_stats`.

  Attributes:
    group: Number of examples that share statistics; 0 for the whole global
      batch.
    momentum: Momentum of the running averages (not in the paper).
    eps: Added to the variance.
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
  """Builds a network's convolutions and normalizations, all of one kind.

  Attributes:
    dtype: Dtype of the convolutions.
    norm: `gn` for GroupNorm, or `bn` for BatchNorm (the paper's ablation).
    weight_standardization: False for plain convolutions (the paper's ablation).
    batch_group: Number of examples that share statistics in BatchNorm; 0 for
      the whole global batch.
  """

  dtype: Any = jnp.float32
  norm: str = "gn"
  weight_standardization: bool = True
  batch_group: int = 0

  def conv(
    self, features: int, name: str, *, kernel_px: int = 1, stride: int = 1
  ) -> StdConv:
    """Returns a convolution; the arguments are `StdConv`'s attributes."""
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
