"""Operations that are implemented differently for each kind of device.

Only this file depends on the kind of device, by `jax.lax.platform_dependent`.
It selects the implementation when a function is lowered, so that functions can
be compiled for devices that are not attached. The implementations of an
operation differ by rounding; on TPUs, statistics differ by what the docstring
of `_one_pass` says. README, "Notes on speed", has the measurements. For
`jax.export`, the batch size may be symbolic, height and width may not.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

# Names of results that rematerialization can keep; `models.REMAT` uses them.
CONVOLUTION, STATISTICS = "convolution", "statistics"
# Input channels whose mean is near that of the kernel.
_SHIFT_CHANNELS = 32


def at_least_float32(dtype: Any) -> Any:
  """Returns float64 for float64, else float32."""
  return jnp.promote_types(dtype, jnp.float32)


def conv(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
  """Convolves images that are padded with (k - 1) // 2 zeros on each side.

  Args:
    x: Images [N, H, W, I].
    kernel: Kernel [k, k, I, O] of x's dtype, k odd.
    stride: Stride in both directions.

  Returns:
    [N, H / stride, W / stride, O] of x's dtype.
  """

  def direct(x, kernel):
    padding = (kernel.shape[0] - 1) // 2
    return jax.lax.conv_general_dilated(
      x,
      kernel,
      (stride, stride),
      [(padding, padding)] * 2,
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )

  def matrix_product(x, kernel):
    return jnp.einsum("nhwi,io->nhwo", x[:, ::stride, ::stride], kernel[0, 0])

  if kernel.shape[0] == 1:
    y = jax.lax.platform_dependent(
      x, kernel, cpu=matrix_product, default=direct
    )
  else:
    y = direct(x, kernel)
  return checkpoint_name(y, CONVOLUTION)


def centre(kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns a kernel minus its mean, and its population variance.

  Both are of each output channel. On a CPU the variance takes a second pass
  over the kernel, which suits any kernel. Elsewhere it takes none, which saves
  5 % of the bytes of R50x1's training step on a TPU v3 (measured: compiled
  ahead of time).

  Args:
    kernel: Kernel [H, W, I, O], at least float32.

  Returns:
    [H, W, I, O] and [O].
  """
  # A mean near zero has more digits than one far away. The result does not
  # depend on the shift, so neither does the gradient.
  shift = kernel[:1, :1, :_SHIFT_CHANNELS].mean((0, 1, 2))
  shifted = kernel - jax.lax.stop_gradient(shift)
  mean = shifted.mean((0, 1, 2))
  centred = shifted - mean

  def two_passes(shifted, mean, centred):
    del shifted, mean
    return jnp.square(centred).mean((0, 1, 2))

  def one_pass(shifted, mean, centred):
    # If the shift is s standard deviations off the mean, the rounding error is
    # 1 + s² times that of two passes. A single value is up to 4 off, a mean of
    # 32 hardly 1, and takes few bytes to read.
    del centred
    square = jnp.square(shifted).mean((0, 1, 2))
    return jnp.maximum(square - jnp.square(mean), 0)

  variance = jax.lax.platform_dependent(
    shifted, mean, centred, cpu=two_passes, default=one_pass
  )
  return centred, variance


def max_pool(x: jax.Array) -> jax.Array:
  """Returns the maxima of 3x3 windows, stride 2, with zero padding.

  The zeros are as in the official code: padding with -inf, the default of most
  frameworks, is a different network.

  Args:
    x: Images [N, H, W, C].

  Returns:
    [N, (H + 1) // 2, (W + 1) // 2, C] of x's dtype.
  """
  return jax.lax.platform_dependent(x, cpu=_pool_slices, default=_pool_windows)


def _pool_windows(x: jax.Array) -> jax.Array:
  # The zeros are applied to the result, which avoids a padded copy of x.
  def sees_border(size, pooled):
    first = 2 * jnp.arange(pooled) - 1
    return (first < 0) | (first + 2 >= size)

  # Any, because Flax's annotation allows only names such as "SAME".
  border: Any = ((1, 1), (1, 1))
  y = nn.max_pool(x, (3, 3), strides=(2, 2), padding=border)
  rows = sees_border(x.shape[1], y.shape[1])[:, None, None]
  columns = sees_border(x.shape[2], y.shape[2])[:, None]
  return jnp.where((rows | columns) & (y < 0), 0, y)


def _pool_slices(x: jax.Array) -> jax.Array:
  # On a CPU, XLA's gradient of a max pool takes longer than the convolution of
  # the root block. The gradient of slices is faster.
  def larger(a, b):
    # Of equal values, the first gets the gradient.
    return jnp.where((a >= b) | jnp.isnan(a), a, b)

  for axis in (1, 2):
    border = [(0, 0)] * 4
    border[axis] = (1, 1)
    x = jnp.pad(x, border)
    pooled = (x.shape[axis] - 1) // 2
    x = functools.reduce(
      larger,
      (
        jax.lax.slice_in_dim(x, i, i + 2 * pooled - 1, stride=2, axis=axis)
        for i in range(3)
      ),
    )
  return x


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def group_norm(
  x: jax.Array, scale: jax.Array, bias: jax.Array, groups: int, eps: float
) -> jax.Array:
  """Group normalization (arXiv 1803.08494).

  The gradient is written by hand, because the derived one takes more passes
  over memory; only x and the statistics are stored for it. Therefore there is
  no forward-mode derivative, and inside `jax.shard_map` it needs
  check_vma=False and a sum of the gradients of scale and bias over the devices.

  Args:
    x: Features [N, H, W, C]; statistics are computed in at least float32.
    scale: Scale of each channel, [C].
    bias: Bias of each channel, [C].
    groups: Number of groups of consecutive channels.
    eps: Added to the variance.

  Returns:
    [N, H, W, C] of x's dtype.
  """
  return _group_norm_forward(x, scale, bias, groups, eps)[0]


def _group_norm_forward(x, scale, bias, groups, eps):
  mean, variance = jax.lax.platform_dependent(
    x,
    cpu=functools.partial(_two_passes, groups=groups),
    tpu=functools.partial(_one_pass, groups=groups, shift_by=None),
    default=functools.partial(_one_pass, groups=groups, shift_by=_centre),
  )
  mean = checkpoint_name(mean, STATISTICS)
  gain = checkpoint_name(jax.lax.rsqrt(variance + eps), STATISTICS)
  y = x.astype(mean.dtype) - mean[:, None, None]
  y = y * (gain * scale)[:, None, None] + bias
  return y.astype(x.dtype), (x, mean, gain, scale, bias)


def _group_norm_backward(groups, eps, kept, grads):
  """Returns the gradients of x, scale and bias.

  With g the gradient of y = n * scale + bias, gain = 1 / sqrt(variance + eps),
  n = (x - mean) * gain and E the mean over a group's pixels and channels:

    dx = gain * (g * scale - E[g * scale] - n * E[g * scale * n])

  A first pass over x and g computes sums per channel, which the gradients of
  scale and bias need too; a second one computes dx.
  """
  del eps
  x, mean, gain, scale, bias = kept
  dtype, pixels = mean.dtype, x.shape[1] * x.shape[2]
  centred, g = x.astype(dtype) - mean[:, None, None], grads.astype(dtype)
  # Sums per channel: of g, and of g times the normalized x.
  total, along = g.sum((1, 2)), (g * centred).sum((1, 2)) * gain
  of_mean = _group_mean(total * scale, groups) / pixels
  of_gain = _group_mean(along * scale, groups) / pixels
  dx = (
    g * (gain * scale)[:, None, None]
    - centred * (gain * gain * of_gain)[:, None, None]
    - (gain * of_mean)[:, None, None]
  )
  dscale, dbias = along.sum(0).astype(scale.dtype), total.sum(0)
  return dx.astype(x.dtype), dscale, dbias.astype(bias.dtype)


group_norm.defvjp(_group_norm_forward, _group_norm_backward)


def _group_mean(per_channel: jax.Array, groups: int) -> jax.Array:
  """Replaces each channel of [N, C] by the mean of its group."""
  grouped = per_channel.reshape(per_channel.shape[0], groups, -1)
  mean = grouped.mean(-1, keepdims=True)
  return jnp.broadcast_to(mean, grouped.shape).reshape(per_channel.shape)


def _two_passes(x, *, groups):
  """Returns mean and variance of each channel's group, both [N, C]."""
  y = x.astype(at_least_float32(x.dtype))
  mean = _group_mean(y.mean((1, 2)), groups)
  variance = jnp.square(y - mean[:, None, None]).mean((1, 2))
  return mean, _group_mean(variance, groups)


def _one_pass(x, *, groups, shift_by):
  """Returns the same as `_two_passes` from sums of x - shift and its square.

  Without a shift, the error of the variance is about 2e-7 x mean² (float32),
  which is too large if the mean exceeds 300 standard deviations. But a TPU can
  then compute the sums while the convolution before writes its output; with a
  shift, it would need a value of that output first.

  Args:
    x: Features [N, H, W, C].
    groups: Number of groups of consecutive channels.
    shift_by: Returns the shift of each channel, [N, C]; None for no shift.
  """
  y = x.astype(at_least_float32(x.dtype))
  shift = shift_by(y) if shift_by else jnp.zeros(y[:, 0, 0].shape, y.dtype)
  y = y - shift[:, None, None]
  mean, square = y.mean((1, 2)), jnp.square(y).mean((1, 2))
  base = _group_mean(shift, groups)
  offset = mean + (shift - base)
  centre = _group_mean(offset, groups)
  variance = square - jnp.square(mean) + jnp.square(offset - centre)
  return base + centre, jnp.maximum(_group_mean(variance, groups), 0)


def _centre(y: jax.Array) -> jax.Array:
  """Returns the central pixel of each channel, [N, C]."""
  return y[:, y.shape[1] // 2, y.shape[2] // 2]
