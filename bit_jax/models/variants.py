"""Names of networks: variants, options, and which parameters are a head."""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

from bit_jax.errors import InputError, did_you_mean
from bit_jax.models.layers import GROUPS


@dataclasses.dataclass(frozen=True)
class Architecture:
  """The architecture of one depth.

  Attributes:
    units: Number of residual units in each of the four stages.
    small_images: True for a root made for images of about 32 px, which is a 3x3
      convolution of stride 2 without pooling.
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
    InputError: The name has another form, the depth is unknown, or the channels
      do not fill whole groups of GroupNorm in every layer.
  """
  match = re.fullmatch(r"R(\d+)x(\d+(?:\.\d+)?)", variant)
  depth, width = (int(match[1]), float(match[2])) if match else (0, 0.0)
  if depth not in ARCHITECTURES or width <= 0:
    depths = ", ".join(map(str, ARCHITECTURES))
    raise InputError(
      f"model {variant!r} is unknown: expected R<depth>x<width> with depth one "
      f"of {depths}, e.g. {', '.join(VARIANTS)} or R14x0.5"
      + did_you_mean(_meant(variant))
    )
  widths = [64 * width * 2**i for i in range(6)]  # Of all layers.
  if any(w != int(w) or w % min(GROUPS, w) for w in widths):
    raise InputError(
      f"model {variant!r}: {64 * width:g} channels do not fill whole groups of "
      f"GroupNorm in every layer; use a width such as 0.25, 0.5, 1 or 3"
    )
  return depth, width


def _meant(name: str) -> list[str]:
  """Returns the variant that a name of another code base or release means.

  Such as `resnet50`, `resnetv2_101x3_bitm` (timm), `google/bit-50` and `r50X1`.
  """
  numbers = re.finditer(r"(?<![\d.])(\d+)(?:[xX](\d+(?:\.\d+)?))?(?!\d)", name)
  for match in numbers:
    if int(match[1]) in ARCHITECTURES:
      return [f"R{match[1]}x{match[2] or 1}"]
  return []


# Options that change the network but not its parameter shapes: attributes of
# `ResNetV2` and their values, the default first. Applying parameters needs them
# besides the variant.
OPTIONS = {"norm": ("gn", "bn"), "weight_standardization": (True, False)}

# Values of `remat`, the least first. The backward pass computes these parts
# again instead of keeping them. none: nothing; norm: normalizations and
# activations, but no convolution; unit: all of a residual unit; stage: all of a
# stage. The results are the same but for rounding.
REMAT = ("none", "norm", "unit", "stage")


def non_default_options(attributes: Mapping[str, Any]) -> dict[str, Any]:
  """Returns those of OPTIONS that do not have their default.

  Args:
    attributes: Attributes of a `ResNetV2`, e.g. config.model, with all keys of
      OPTIONS.
  """
  return {
    key: attributes[key]
    for key, values in OPTIONS.items()
    if attributes[key] != values[0]
  }


def spell_options(options: Mapping[str, Any], keys: Iterable[str]) -> str:
  """Returns model options as text, `norm='gn', ...`.

  Args:
    options: Model options, e.g. `Weights.model_options`; omitted options have
      their default.
    keys: The keys of OPTIONS to include.
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
