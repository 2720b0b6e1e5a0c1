r"""Distillation: a student learns from a fine-tuned teacher (arXiv 1503.02531).

The loss is label_weight x the loss on the labels + (1 - label_weight) x T^2
KL(teacher || student), both softened by the temperature T; student and teacher
see the same, mixed pixels. The teacher is any weights with the data set's
classes: a work directory, a checkpoint or a params.npz. Everything else is the
fine-tuning of configs/downstream.py, whose arguments and presets this takes.

| argument     | default | meaning                                            |
|--------------|---------|----------------------------------------------------|
| teacher      |         | its weights                                        |
| temperature  | 4       | T; Hinton et al. tried 2.5 to 20 (their paper)      |
| label_weight | 0.1     | of the labels; 0 learns from the teacher alone     |

  bit_jax train --workdir=/tmp/student \
      --config=distill:teacher=/tmp/teacher,dataset=cifar10 \
      --config.init.checkpoint=BiT-M-R50x1

Neither default is from the BiT paper, which does not distil; they were not
tuned. A teacher that is larger than the student costs one more of its forward
passes a step.

Measured (25 November 2026, 2 CPU cores, seeds 0, 1, 2), digits, preset quick:
an R14x0.5 teacher of 600 steps has 97.9 %. An R14x0.25 student from random
weights has, after 150 steps, 83.7 % from the labels (configs/downstream.py;
83.6 to 89.7), 90.3 % from the teacher alone (label_weight=0; 90.2 to 92.2) and
89.7 % with the defaults (89.5 to 91.5). All three ran at the same learning
rate, which was chosen for none of them. Larger sets and networks: not run.
"""

import ml_collections

from bit_jax.configs import common, downstream

ARGUMENTS = {"teacher": "", "temperature": 4.0, "label_weight": 0.1}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the config.

  Args:
    arg: `teacher=,temperature=,label_weight=`, and the arguments of
      configs/downstream.py.
  """
  args = common.parse_arg(arg, **ARGUMENTS, **downstream.ARGUMENTS)
  c = downstream.from_arguments(args)
  c.objective = "distill"
  for key in ARGUMENTS:
    c.distill[key] = args[key]
  return c
