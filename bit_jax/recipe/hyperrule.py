"""BiT-HyperRule: fine-tuning's hyperparameters from data-set and image size.

The preset "paper" follows section 3.3 and the appendix. "code" follows
bit_hyperrule.py of the official release, which differs in the decay points and
in the resolution of images of 96 x 96 pixels and more.
"""

import dataclasses

from bit_jax.errors import InputError

PRESETS = ("paper", "code")


@dataclasses.dataclass(frozen=True)
class Rule:
  """Hyperparameters that follow from the size of the data set.

  Attributes:
    total_steps: Number of updates, at batch size 512.
    warmup_steps: Updates in which the learning rate grows linearly.
    decay_steps: Updates after which the learning rate is divided by 10.
    mixup_alpha: Parameter of mixup's Beta distribution; 0 for no mixup.
  """

  total_steps: int
  warmup_steps: int
  decay_steps: tuple[int, ...]
  mixup_alpha: float


# The paper does not mention a warm-up; both presets use the code's.
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

  The presets differ only in the decay points of small sets: the paper has 30,
  60 and 90 % of the steps, the code 200, 300 and 400 of 500.

  Args:
    num_examples: Size of the training set; in few-shot sets too, all examples
      count, not those per class.
    preset: `paper` or `code`.

  Raises:
    InputError: The preset is neither `paper` nor `code`.

  Example:
    >>> from bit_jax.recipe import hyperrule
    >>> hyperrule.rule(1000, "paper")  # doctest: +NORMALIZE_WHITESPACE
    Rule(total_steps=500, warmup_steps=100, decay_steps=(150, 300, 450),
         mixup_alpha=0.0)
    >>> hyperrule.rule(50_000, "paper").total_steps
    10000
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

  Images with an area below 96 x 96 pixels are resized to 160 and cropped to
  128. For larger ones, these are 448 and 384 in the paper (R152x4: 512 and
  480), and 512 and 480 in the code.

  Args:
    height_px: Height of a typical image.
    width_px: Width of a typical image.
    preset: `paper` or `code`.
    variant: Variant of the network, e.g. `R50x1`.

  Raises:
    InputError: The preset is neither `paper` nor `code`.
  """
  _check_preset(preset)
  if height_px * width_px < 96 * 96:
    return 160, 128
  if preset == "code" or variant == "R152x4":
    return 512, 480
  return 448, 384
