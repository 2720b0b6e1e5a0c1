"""BiT-HyperRule: data-set size and image size in, plain numbers out.

Paper section 3.3 and appendix; "code" is bit_hyperrule.py of the official
release, which differs in the decay points and in the resolution of images of
96 x 96 pixels and more.
"""

import dataclasses

from bit_jax.errors import InputError

PRESETS = ("paper", "code")


@dataclasses.dataclass(frozen=True)
class Rule:
  """What the rule fixes for a data set of some size.

  Attributes:
    total_steps: updates, at batch 512.
    warmup_steps: of linear growth of the learning rate.
    decay_steps: updates after which the learning rate is divided by 10.
    mixup_alpha: of mixup's Beta distribution; 0 is no mixup.
  """

  total_steps: int
  warmup_steps: int
  decay_steps: tuple[int, ...]
  mixup_alpha: float


# The paper does not mention warm-up; both presets have that of the code.
_SMALL = Rule(500, 100, (200, 300, 400), 0.0)
_MEDIUM = Rule(10_000, 500, (3_000, 6_000, 9_000), 0.1)
_LARGE = Rule(20_000, 500, (6_000, 12_000, 18_000), 0.1)


def _check_preset(preset: str) -> None:
  if preset not in PRESETS:
    raise InputError(
      f"config.hyperrule is {preset!r}: expected {' or '.join(PRESETS)}"
    )


def rule(num_examples: int, preset: str) -> Rule:
  """Returns steps, decay points and mixup for a number of training examples.

  Few-shot sets count all their examples, not those of a class. Both presets
  agree on everything but the decay points of small sets: the paper gives
  30, 60 and 90 % of the steps, the code 200, 300 and 400 of 500.

  Raises:
    InputError: the preset is neither `paper` nor `code`.
  """
  _check_preset(preset)
  if num_examples >= 500_000:
    return _LARGE
  if num_examples >= 20_000:
    return _MEDIUM
  if preset == "paper":
    return dataclasses.replace(_SMALL, decay_steps=(150, 300, 450))
  return _SMALL


def resolution(
  height_px: int, width_px: int, preset: str, variant: str
) -> tuple[int, int]:
  """Returns (resize_px, crop_px) for images of a size.

  Paper: 160 -> 128 below 96 x 96 pixels of area, else 448 -> 384 (R152x4:
  512 -> 480). Code: 512 -> 480 for every larger image.

  Raises:
    InputError: the preset is neither `paper` nor `code`.
  """
  _check_preset(preset)
  if height_px * width_px < 96 * 96:
    return 160, 128
  if preset == "code" or variant == "R152x4":
    return 512, 480
  return 448, 384
