"""Networks: BiT's ResNet-v2 and how to name, make and fold one.

`models.create(variant, num_classes=...)` is a public contract, and so are the
paths of its parameters; see `resnet`.
"""

from bit_jax.models.folding import fold, unstandardized
from bit_jax.models.resnet import ResNetV2, create, scale_images
from bit_jax.models.variants import (
  ARCHITECTURES,
  OPTIONS,
  REMAT,
  VARIANTS,
  extra_heads,
  is_encoder,
  non_default_options,
  parse_variant,
  spell_options,
)

__all__ = [
  "ARCHITECTURES",
  "OPTIONS",
  "REMAT",
  "VARIANTS",
  "ResNetV2",
  "create",
  "extra_heads",
  "fold",
  "is_encoder",
  "non_default_options",
  "parse_variant",
  "scale_images",
  "spell_options",
  "unstandardized",
]
