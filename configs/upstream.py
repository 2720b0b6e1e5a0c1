r"""Pre-training of BiT-S, BiT-M and BiT-L, and a smaller recipe in proportion.

Paper (1912.11370) sections 3.1 and 3.3: SGD with momentum 0.9, batch 4096,
learning rate 0.03 x batch / 256 after 5000 steps of linear warm-up, weight
decay 1e-4, inception crop to 224 px, random flip, no mixup.

| preset | data (paper)            | epochs, / 10 after    | loss    |
|--------|-------------------------|-----------------------|---------|
| bit_s  | ILSVRC-2012, 1.28 M     | 90; 30, 60, 80        | softmax |
| bit_m  | ImageNet-21k, 14.2 M    | 90; 30, 60, 80        | sigmoid |
| bit_l  | JFT-300M (not public)   | 40; 10, 23, 30, 37    | sigmoid |
| small  | any small labelled set  | 40; 33, 67, 89 %      | softmax |

`small` is BiT-S in proportion: batch 256, and a warm-up of 17.8 % of the steps
(5000 of BiT-S's 28,151). With `dataset=X` a preset keeps its loss, optimiser
and shape of the schedule; X determines classes, number of examples, resolution
(images smaller than 224 px keep their size) and flip.

  bit_jax train --workdir=/tmp/bit_s \
      --config=upstream:preset=bit_s,model=R50x1

Expected (paper): R50x1 with GroupNorm and weight standardization reaches 76.0 %
on ILSVRC-2012 at batch 4096. Not run; the paper used 512 TPUv3 cores.
"""

import ml_collections

from bit_jax.configs import common

# {preset: (data set, loss, length, decay points)}.
PRESETS = {
  "bit_s": (
    "imagenet2012",
    "softmax",
    "90 epochs",
    "30 epochs,60 epochs,80 epochs",
  ),
  "bit_m": (
    "imagenet21k",
    "sigmoid",
    "90 epochs",
    "30 epochs,60 epochs,80 epochs",
  ),
  "bit_l": (
    "jft300m",
    "sigmoid",
    "40 epochs",
    "10 epochs,23 epochs,30 epochs,37 epochs",
  ),
  "small": ("glyphs", "softmax", "40 epochs", "33.3 %,66.7 %,88.9 %"),
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the config.

  Args:
    arg: `preset=,model=,dataset=,data_dir=,examples_per_class=`.

  Raises:
    UsageError: An argument or its value is unknown.
  """
  args = common.parse_arg(
    arg,
    preset="bit_s",
    model="",
    dataset="",
    data_dir="",
    examples_per_class=0,
  )
  common.choose("preset", args["preset"], PRESETS)
  dataset, loss, total, decay_at = PRESETS[args["preset"]]
  small = args["preset"] == "small"

  c = common.get_config()
  common.set_data(c, args, default_dataset=dataset)
  c.model.variant = args["model"]
  c.loss = loss
  c.input.batch_size = 256 if small else 4096
  c.input.train = "inception"
  c.input.eval = "central"
  c.schedule.total = total
  c.schedule.warmup = "17.8 %" if small else "5000 steps"
  c.schedule.decay_at = decay_at
  c.optim.lr = 0.03
  c.optim.lr_batch_size = 256
  c.optim.weight_decay = 1e-4
  c.eval.every_steps = 0 if small else 5000
  c.checkpoint.every_steps = 1000
  return c
