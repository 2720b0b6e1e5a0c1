r"""BiT's claims on a small scale: Tiny-ImageNet to CIFAR-10 and Flowers-102.

A study for `bit_jax study` that runs on a CPU. It pre-trains on Tiny-ImageNet
(100,000 images of 200 classes) with a schedule in proportion to BiT-S's. It
fine-tunes on CIFAR-10 and Flowers-102 with 1, 5 and 10 examples per class and
on all of CIFAR-10, and compares with the same networks from random weights.
Flowers-102 has 10 training images per class, so 10 is all of it.

| network            | why                                                   |
|--------------------|-------------------------------------------------------|
| R14x0.25, GN + WS  | the base                                              |
| R14x0.5, GN + WS   | the effect of size: 3.6 times the parameters          |
| R14x0.25, GN       | without weight standardization                        |
| R14x0.25, BN       | statistics of 8 examples, as on 512 devices (paper)   |

  bit_jax study --workdir=workdir/reproduction \
      --study=reproduction:data_dir=DIR

To fit on a CPU it differs from the paper's recipes: images of 32 px; batch 64
upstream and 32 downstream; two epochs at learning rate 0.3 x batch / 256, ten
times the paper's; preset `quick` (150 steps); all of CIFAR-10 in 1000 steps of
64 with mixup 0.1. The learning rates, and the steps for few examples, are those
of the quickstart; the two epochs and the 1000 steps are what the time allowed.
Nothing was chosen on the test splits.

Measured: measured/README.md shows the results, reproduction.json beside it
stores them.
"""

import ml_collections
from bit_jax.configs.ablation import NORMS, set_norm

from bit_jax.configs import common, downstream, upstream
from bit_jax.report.study import Chart, Run, Study, Table

UPSTREAM = "tiny_imagenet"
# {data set: numbers of examples per class}; 0 stands for all examples.
DOWNSTREAM = {"cifar10": (1, 5, 10, 0), "oxford_flowers102": (1, 5, 10)}
# (variant, norm, whether it is also trained from random weights).
NETWORKS = (
  ("R14x0.25", "gn_ws", True),
  ("R14x0.5", "gn_ws", True),
  ("R14x0.25", "gn", False),
  ("R14x0.25", "bn", False),
)
SEEDS = 3
_BATCH_GROUP = 8


def _upstream(variant: str, norm: str, data_dir: str):
  config = upstream.get_config(
    f"preset=small,dataset={UPSTREAM},model={variant},data_dir={data_dir}"
  )
  set_norm(config, norm, _BATCH_GROUP)
  config.input.batch_size = 64
  config.input.resize_px, config.input.crop_px = 36, 32
  config.schedule.total = "2 epochs"
  config.optim.lr = 0.3
  config.eval.every_steps = 500
  return config


def _downstream(
  variant: str, norm: str, data: str, shots: int, seed: int, data_dir: str
) -> ml_collections.ConfigDict:
  config = downstream.get_config(
    f"preset=quick,dataset={data},model={variant},data_dir={data_dir},"
    f"examples_per_class={shots}"
  )
  set_norm(config, norm, _BATCH_GROUP)
  config.seed = seed
  if shots:
    config.data.subset_file = f"subsets/{data}-{shots}-shot-{seed}.json"
  else:
    config.schedule.total = "1000 steps"
    config.input.batch_size = 64
  return config


def get_study(arg: str | None = None) -> Study:
  """Returns the study.

  Args:
    arg: `data_dir=PATH`, the folder of the TFDS sets.
  """
  data_dir = common.parse_arg(arg, data_dir="")["data_dir"]
  runs = []
  for variant, norm, _ in NETWORKS:
    factors = {
      "network": f"{variant} {NORMS[norm][0]}",
      "data": UPSTREAM,
      "weights": "random",
    }
    config = _upstream(variant, norm, data_dir)
    runs.append(Run(f"upstream-{variant}-{norm}", config, factors))
  for data, numbers in DOWNSTREAM.items():
    for shots in numbers:
      for seed in range(SEEDS if shots else 1):
        for variant, norm, scratch in NETWORKS:
          for init in ("pre-trained", "scratch")[: 1 + scratch]:
            factors = {
              "network": f"{variant} {NORMS[norm][0]}",
              "data": data,
              "per class": str(shots or "all"),
              "seed": str(seed),
              "weights": init,
            }
            name = f"{data}-{shots or 'all'}-{seed}-{variant}-{norm}-{init}"
            runs.append(
              Run(
                name,
                _downstream(variant, norm, data, shots, seed, data_dir),
                factors,
                init=f"upstream-{variant}-{norm}"
                if init == "pre-trained"
                else "",
              )
            )
  tables = [
    Table(
      "Upstream, Tiny-ImageNet validation accuracy",
      ["network"],
      ["data"],
      where={"data": UPSTREAM},
    )
  ]
  tables += [
    Table(
      f"{data}, test accuracy",
      ["per class"],
      ["network", "weights"],
      where={"data": data},
    )
    for data in DOWNSTREAM
  ]
  return Study(
    title="Tiny-ImageNet to CIFAR-10 and Flowers-102",
    notes=["Median and range over three subsets of each size."],
    runs=runs,
    tables=tables,
    charts=[
      Chart(
        "Upstream training loss", "train/loss", ["network"], {"data": UPSTREAM}
      ),
      Chart(
        "Upstream accuracy", "eval/*/accuracy", ["network"], {"data": UPSTREAM}
      ),
      Chart(
        "Fine-tuning loss, all of CIFAR-10",
        "train/loss",
        ["network", "weights"],
        {"data": "cifar10", "per class": "all"},
      ),
    ],
  )
