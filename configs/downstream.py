r"""Fine-tuning with the BiT-HyperRule (paper section 3.3), for any data set.

SGD with momentum 0.9, learning rate 0.003, batch 512, no weight decay, a new
head of zeros, all weights trained. The rule, `bit_jax/recipe/hyperrule.py`,
derives steps, decay points and mixup from the number of training examples, and
the resolution from the image size.

| preset | difference                                                        |
|--------|-------------------------------------------------------------------|
| paper  | the default: decay at 30, 60, 90 %; larger images 448 -> 384 px   |
| code   | as the official code: small sets decay at 200, 300, 400 of 500,   |
|        | larger images 512 -> 480 px, the schedule one step late           |
| light  | code, with batch 128 and learning rate 0.001                      |
| quick  | minutes on a laptop: 32 px, batch 32, 150 steps in the same       |
|        | proportions, a higher learning rate because there are few steps   |

  bit_jax train --workdir=/tmp/cifar10 \
      --config=downstream:dataset=cifar10 \
      --config.init.checkpoint=BiT-M-R50x1

Without `model=`, the network is that of the weights; without weights, R50x1.

Expected (official release, light, BiT-M-R50x1, medians): CIFAR-10 with 1 / 5 /
all examples per class 54.1 / 82.4 / 97.3 %, CIFAR-100 35.2 / 64.8 / 86.4 %.
Not run.
"""

from collections.abc import Mapping

import ml_collections

from bit_jax.configs import common

PRESETS = ("paper", "code", "light", "quick")


ARGUMENTS = {
  "preset": "paper",
  "model": "",  # That of the weights, or R50x1 without.
  "dataset": "cifar10",
  "data_dir": "",
  "examples_per_class": 0,
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the config.

  Args:
    arg: `preset=,model=,dataset=,data_dir=,examples_per_class=`.

  Raises:
    UsageError: An argument or its value is unknown.
  """
  return from_arguments(common.parse_arg(arg, **ARGUMENTS))


def from_arguments(
  args: Mapping[str, str | int | float],
) -> ml_collections.ConfigDict:
  """Returns the config of the arguments in ARGUMENTS; others are ignored."""
  preset = common.choose("preset", str(args["preset"]), PRESETS)
  c = common.get_config()
  common.set_data(c, args, default_dataset="cifar10")
  c.model.variant = args["model"]
  c.hyperrule = "code" if preset in ("code", "light") else "paper"
  c.mixup_alpha = -1.0
  if preset == "light":
    c.input.batch_size = 128
    c.optim.lr = 0.001
  elif preset == "quick":
    c.input.batch_size = 32
    # The ratio 5 : 4 is the rule's for small images.
    c.input.resize_px = 40
    c.input.crop_px = 32
    c.schedule.total = "150 steps"
    c.optim.lr = 0.01
  return c
