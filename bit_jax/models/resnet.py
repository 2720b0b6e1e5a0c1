"""ResNet-v2 with GroupNorm and weight standardization, the network of BiT.

Paper section 3.1 (arXiv 1912.11370). Parameter paths are a public contract:
`root_block/conv_root/kernel`, `block1/unit01/{conv1,conv2,conv3,conv_proj}/
kernel`, `block1/unit01/{gn1,gn2,gn3}/{scale,bias}`, `norm-pre-head/{scale,
bias}`, `head/{kernel,bias}`.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bit_jax.models import ops
from bit_jax.models.layers import Layers, at_least_float32
from bit_jax.models.variants import ARCHITECTURES, parse_variant


class ResidualUnit(nn.Module):
  """Pre-activation bottleneck unit; its 3x3 convolution has the stride.

  Attributes:
    channels: Channels of the two inner convolutions; the output has four times
      as many.
    layers: Makes the convolutions and normalizations.
    stride: Stride of the unit.
    project: True if the shortcut is a 1x1 convolution, which BiT applies after
      the first normalization and activation.
  """

  channels: int
  layers: Layers
  stride: int = 1
  project: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps [N, H, W, I] to [N, H / stride, W / stride, 4 * channels]."""
    conv, norm, wide = self.layers.conv, self.layers.norm, 4 * self.channels

    def norm_relu(x, i):
      return self.layers.norm_relu(x, f"{norm}{i}", train=train)

    y = norm_relu(x, 1)
    if self.project:
      x = conv(wide, "conv_proj", stride=self.stride)(y)
    y = conv(self.channels, "conv1")(y)
    y = norm_relu(y, 2)
    y = conv(self.channels, "conv2", kernel_px=3, stride=self.stride)(y)
    y = norm_relu(y, 3)
    y = conv(wide, "conv3")(y)
    return x + y


def _rematerialized(module: Any, remat: str) -> Any:
  """Returns a module class, called with (x, train), that rematerializes."""
  kept = [ops.CONVOLUTION, ops.STATISTICS] if remat == "norm" else []
  policy = jax.checkpoint_policies.save_only_these_names(*kept)
  return nn.remat(module, policy=policy, static_argnums=(2,))


class Stage(nn.Module):
  """Residual units at one resolution; the first one projects and strides."""

  units: int
  channels: int
  layers: Layers
  stride: int
  remat: str

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps [N, H, W, I] to [N, H / stride, W / stride, 4 * channels]."""
    unit: Any = ResidualUnit
    if self.remat in ("norm", "unit"):
      unit = _rematerialized(ResidualUnit, self.remat)
    for i in range(self.units):
      x = unit(
        self.channels,
        self.layers,
        stride=self.stride if i == 0 else 1,
        project=i == 0,
        name=f"unit{i + 1:02d}",
      )(x, train)
    return x


class Root(nn.Module):
  """The first convolution, followed by a max-pool for large images."""

  channels: int
  layers: Layers
  small_images: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [N, H, W, 3] to [N, H/4, W/4, C]; small_images: [N, H/2, W/2, C]."""
    kernel_px = 3 if self.small_images else 7
    conv = self.layers.conv
    x = conv(self.channels, "conv_root", kernel_px=kernel_px, stride=2)(x)
    return x if self.small_images else ops.max_pool(x)


class ResNetV2(nn.Module):
  """BiT's network; `create` makes one from the name of a variant.

  Attributes:
    num_classes: Number of outputs of the head.
    units: Number of residual units in each stage.
    width: Factor for all channel counts.
    small_images: True for a root made for images of about 32 px.
    head_bias: Initial value of the head's bias.
    dtype: Dtype of the convolutions, float32 or bfloat16. Statistics, pooling,
      head and logits are float32; float64 parameters make everything float64.
    norm: `gn`; or `bn`, whose parameters are called bn1, bn2 and bn3, for the
      paper's ablation (table 4).
    weight_standardization: False for plain convolutions, for the ablation.
    batch_group: For `bn`, the number of consecutive examples that share
      statistics in training; 0 for all of the global batch.
    remat: What the backward pass computes again; one of REMAT.
  """

  num_classes: int
  units: Sequence[int] = ARCHITECTURES[50].units
  width: float = 1
  small_images: bool = False
  head_bias: float = 0.0
  dtype: Any = jnp.float32
  norm: str = "gn"
  weight_standardization: bool = True
  batch_group: int = 0
  remat: str = "none"

  @nn.compact
  def __call__(
    self,
    images: jax.Array,
    *,
    train: bool = False,
    return_features: bool = False,
  ):
    """Computes logits.

    Args:
      images: Images, float[N, H, W, 3] in [-1, 1].
      train: With norm `bn`, use the batch's statistics and update the running
        ones (collection `batch_stats`, which must be mutable).
      return_features: Also return the outputs of the inner layers.

    Returns:
      float32[N, num_classes] logits (float64 for float64 parameters). With
      return_features, a pair of the logits and a dict: `root` (after the pool),
      `block1` ... `block4`, all [N, h, w, c], and `pre_logits` [N, D], the
      pooled features that the head receives.
    """
    layers = Layers(
      self.dtype, self.norm, self.weight_standardization, self.batch_group
    )
    features = {}
    channels = int(64 * self.width)
    x = Root(channels, layers, self.small_images, name="root_block")(images)
    features["root"] = x
    stage: Any = Stage
    if self.remat == "stage":
      stage = _rematerialized(Stage, self.remat)
    for i, units in enumerate(self.units):
      name, stride = f"block{i + 1}", 1 if i == 0 else 2
      x = features[name] = stage(
        units, channels * 2**i, layers, stride, self.remat, name=name
      )(x, train)
    x = layers.norm_relu(x, "norm-pre-head", train=train)
    x = x.astype(at_least_float32(x.dtype)).mean((1, 2))
    features["pre_logits"] = x
    # The zero kernel makes the first predictions uniform, whatever the body.
    logits = nn.Dense(
      self.num_classes,
      kernel_init=nn.initializers.zeros,
      bias_init=nn.initializers.constant(self.head_bias),
      name="head",
    )(x)
    return (logits, features) if return_features else logits


def create(variant: str, *, num_classes: int, **kw) -> ResNetV2:
  """Returns the network of a variant.

  Args:
    variant: Name of the variant, e.g. `R50x1`, `R152x4` or `R14x0.5`.
    num_classes: Number of outputs of the head.
    **kw: Other attributes of `ResNetV2`; `dtype` may be a string.

  Returns:
    The module; `module.apply({"params": params}, images)` returns logits.

  Raises:
    InputError: The variant is unknown.

  Example:
    >>> import jax, numpy as np
    >>> from bit_jax import models
    >>> model = models.create("R14x0.03125", num_classes=2)
    >>> images = np.zeros((3, 32, 32, 3), np.float32)
    >>> # jax.eval_shape computes shapes only; use jax.jit to compute values.
    >>> variables = jax.eval_shape(model.init, jax.random.key(0), images)
    >>> variables["params"]["block1"]["unit01"]["conv1"]["kernel"].shape
    (1, 1, 2, 2)
    >>> jax.eval_shape(model.apply, variables, images)
    ShapeDtypeStruct(shape=(3, 2), dtype=float32)
  """
  depth, width = parse_variant(variant)
  if "dtype" in kw:
    kw["dtype"] = jnp.dtype(kw["dtype"])
  arch = ARCHITECTURES[depth]
  return ResNetV2(
    num_classes=num_classes,
    units=arch.units,
    width=width,
    small_images=arch.small_images,
    **kw,
  )


def scale_images(images: jax.Array) -> jax.Array:
  """Maps uint8[N, H, W, 3] to float32 in [-1, 1]."""
  return images.astype(jnp.float32) / 127.5 - 1.0
