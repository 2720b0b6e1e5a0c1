"""ResNet-v2 with GroupNorm and weight standardization, the network of BiT.

Paper section 3.1 (arXiv 1912.11370). Parameter paths are a public contract:
`root_block/conv_root/kernel`, `block1/unit01/{conv1,conv2,conv3,conv_proj}/
kernel`, `block1/unit01/{gn1,gn2,gn3}/{scale,bias}`, `norm-pre-head/{scale,
bias}`, `head/{kernel,bias}`.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bit_jax.errors import InputError
from bit_jax.models import ops
from bit_jax.models.layers import GROUPS, Layers, at_least_float32


@dataclasses.dataclass(frozen=True)
class Architecture:
  """What a depth stands for.

  Attributes:
    units: residual units in each of the four stages.
    small_images: True for an early stride made for images of about 32 px: the
      root is a 3x3 stride-2 convolution and has no pooling.
  """

  units: tuple[int, int, int, int]
  small_images: bool = False


# 50, 101 and 152 are the paper's; 26 is the next one down with two units a
# stage; 14 is for tests, the quickstart and small images.
ARCHITECTURES = {
  14: Architecture((1, 1, 1, 1), small_images=True),
  26: Architecture((2, 2, 2, 2)),
  50: Architecture((3, 4, 6, 3)),
  101: Architecture((3, 4, 23, 3)),
  152: Architecture((3, 8, 36, 3)),
}

# The released variants; any other depth of ARCHITECTURES and any width that
# fills whole groups can be created too.
VARIANTS = ("R50x1", "R50x3", "R101x1", "R101x3", "R152x2", "R152x4")


def parse_variant(variant: str) -> tuple[int, float]:
  """Returns (depth, width) of a name such as `R50x1` or `R14x0.5`.

  Raises:
    InputError: the name has another form, or the depth is unknown, or the
      width gives a root whose channels do not fill whole groups.
  """
  match = re.fullmatch(r"R(\d+)x(\d+(?:\.\d+)?)", variant)
  depth, width = (int(match[1]), float(match[2])) if match else (0, 0.0)
  if depth not in ARCHITECTURES or width <= 0:
    depths = ", ".join(map(str, ARCHITECTURES))
    raise InputError(
      f"model {variant!r} is unknown: expected R<depth>x<width> with depth one "
      f"of {depths}, e.g. {', '.join(VARIANTS)} or R14x0.5"
    )
  widths = [64 * width * 2**i for i in range(6)]  # Of all layers.
  if any(w != int(w) or w % min(GROUPS, w) for w in widths):
    raise InputError(
      f"model {variant!r}: {64 * width:g} channels do not fill whole groups of "
      f"GroupNorm in every layer; use a width such as 0.25, 0.5, 1 or 3"
    )
  return depth, width


# What must be known of a network to apply its parameters, besides its variant:
# attributes of `ResNetV2` and their values, the default first.
OPTIONS = {"norm": ("gn", "bn"), "weight_standardization": (True, False)}


# What the backward pass computes a second time instead of keeping it, the least
# first: nothing; normalizations and activations, but no convolution; all of a
# residual unit; all of a stage. The numbers stay the same but for rounding.
REMAT = ("none", "norm", "unit", "stage")


def non_default_options(attributes: Mapping[str, Any]) -> dict[str, Any]:
  """Returns those of OPTIONS that are not the default.

  Args:
    attributes: of a `ResNetV2`, e.g. config.model; all OPTIONS must be there.
  """
  return {
    key: attributes[key]
    for key, values in OPTIONS.items()
    if attributes[key] != values[0]
  }


def spell_options(options: Mapping[str, Any], keys: Iterable[str]) -> str:
  """Returns model options as `norm='gn', ...`; what is left out is a default.

  Args:
    options: e.g. of `Weights.model_options`.
    keys: of OPTIONS, those to spell.
  """
  values = {key: options.get(key, OPTIONS[key][0]) for key in keys}
  return ", ".join(f"{key}={value!r}" for key, value in values.items())


# Names at the top of the parameters; everything else there is a head.
_ENCODER = (
  *("root_block", "block1", "block2", "block3", "block4"),
  "norm-pre-head",
)


def is_encoder(path: str) -> bool:
  """Returns True for the path of a parameter that belongs to no head."""
  return path.split("/", 1)[0] in _ENCODER


def extra_heads(params: Mapping[str, Any]) -> list[str]:
  """Returns the names of the heads beside the classifier's `head`."""
  return sorted(set(params) - {*_ENCODER, "head"})


class ResidualUnit(nn.Module):
  """Pre-activation bottleneck unit; its 3x3 convolution has the stride.

  Attributes:
    channels: of the two inner convolutions; the output has four times as many.
    layers: what it is made of.
    stride: of the unit.
    project: True where the shortcut is a 1x1 convolution; BiT takes it after
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
  """Returns a class of modules called with (x, train) that keeps less."""
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
  """The first convolution, and for large images a max-pool."""

  channels: int
  layers: Layers
  small_images: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [N, H, W, 3] to 1/4 (small_images: 1/2) the height and width."""
    kernel_px = 3 if self.small_images else 7
    conv = self.layers.conv
    x = conv(self.channels, "conv_root", kernel_px=kernel_px, stride=2)(x)
    return x if self.small_images else ops.max_pool(x)


class ResNetV2(nn.Module):
  """BiT's network; see `create` for the usual way to make one.

  Attributes:
    num_classes: outputs of the head.
    units: residual units in each stage.
    width: multiplies all channel counts.
    small_images: see `Architecture`.
    head_bias: initial value of the head's bias.
    dtype: of the convolutions, float32 or bfloat16. Statistics, pooling, head
      and logits are float32; float64 parameters make everything float64.
    norm: `gn`; or `bn`, whose parameters are called bn1, bn2 and bn3, for the
      paper's ablation (table 4).
    weight_standardization: False for plain convolutions, for the ablation.
    batch_group: for `bn`, how many consecutive examples share statistics in
      training; 0 for all of the global batch.
    remat: one of REMAT.
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
      images: float[N, H, W, 3] in [-1, 1].
      train: with norm `bn`, use the batch's statistics and update the running
        ones (collection `batch_stats`, to be made mutable).
      return_features: also return what the layers on the way give.

    Returns:
      float32[N, num_classes] logits (float64 for float64 parameters). With
      return_features a pair of these and a dict: `root` (after the pool),
      `block1` ... `block4`, all [N, h, w, c], and `pre_logits` [N, D], the
      pooled features that the head sees.
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
  """Makes the network of a variant.

  Args:
    variant: e.g. `R50x1`, `R152x4`, `R14x0.5`; see `parse_variant`.
    num_classes: outputs of the head.
    **kw: other attributes of `ResNetV2`; `dtype` may be a string.

  Returns:
    The module; `module.apply({"params": p}, images)` gives logits.

  Raises:
    InputError: the variant is unknown.
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
