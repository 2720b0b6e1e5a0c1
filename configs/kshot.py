r"""k-shot fine-tuning on balanced subsets, with medians (paper, section 4.2).

A study for `bit_jax study`. For each number of examples per class, `samples`
subsets are drawn and stored in WORKDIR/subsets. Each is fine-tuned from the
weights `init` and, with `scratch=1` or without `init`, from random weights.

  bit_jax study --workdir=/tmp/kshot \
      --study=kshot:dataset=cifar10,init=BiT-M-R50x1

`shots` are the numbers of examples per class, joined by `+`. `preset` is one of
configs/downstream.py; the HyperRule applies to the size of the whole subset.

Expected (official release, preset light, BiT-M-R50x1, medians of its runs):
CIFAR-10 with 1 / 5 examples per class 54.1 / 82.4 %, CIFAR-100 35.2 / 64.8 %;
R101x3 53.9 / 85.8 % and 35.0 / 70.8 %. With one example per class the draws
differ by several points, so compare medians and mind the range. Not run;
configs/reproduction.py has k-shot runs that were.
"""

from bit_jax.configs import common, downstream
from bit_jax.errors import InputError
from bit_jax.report.study import Chart, Run, Study, Table


def get_study(arg: str | None = None) -> Study:
  """Returns the study.

  Args:
    arg: `dataset=,data_dir=,model=,init=,shots=,...`, as the module describes.

  Raises:
    InputError: An argument has an unknown value.
  """
  from bit_jax.recipe import network  # With JAX, which takes a second.

  args = common.parse_arg(
    arg,
    preset="paper",
    model="",
    dataset="cifar10",
    data_dir="",
    init="",
    shots="1+5+10",
    samples=5,
    scratch=0,
  )
  # The same network from scratch as from the weights.
  args["model"] = network.variant(args["model"], args["init"])
  inits = {"from weights": args["init"]} if args["init"] else {}
  if args["scratch"] or not inits:
    inits["from scratch"] = ""
  runs = []
  for shots in shot_numbers(args["shots"]):
    for sample in range(args["samples"]):
      for weights, init in inits.items():
        config = downstream.from_arguments(
          {**args, "examples_per_class": shots}
        )
        config.seed = sample
        config.init.checkpoint = init
        config.data.subset_file = f"subsets/{shots}-shot-{sample}.json"
        runs.append(
          Run(
            f"{shots}-shot-{sample}-{weights.replace(' ', '-')}",
            config,
            {
              "per class": str(shots),
              "sample": str(sample),
              "weights": weights,
            },
          )
        )
  return Study(
    title=f"{args['model']} on {args['dataset']}, few examples per class",
    notes=[
      f"{args['samples']} balanced draws for each number of examples per "
      f"class; preset {args['preset']}; weights: {args['init'] or 'random'}."
    ],
    runs=runs,
    tables=[Table("Test accuracy", ["per class"], ["weights"])],
    charts=[
      Chart(
        "Training loss, first draw",
        "train/loss",
        ["per class", "weights"],
        {"sample": "0"},
      )
    ],
  )


def shot_numbers(text: str) -> list[int]:
  """Returns the numbers of `1+5+10`.

  Raises:
    InputError: The text has another form.
  """
  try:
    shots = [int(part) for part in text.split("+")]
  except ValueError:
    shots = [0]
  if min(shots) < 1:
    raise InputError(f"shots={text}: expected positive numbers such as 1+5+10")
  return shots
