"""The objectives that `config.objective` can name."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from bit_jax import models
from bit_jax.errors import InputError
from bit_jax.objectives.classify import Classify
from bit_jax.objectives.distill import Distill
from bit_jax.objectives.objective import Objective


@dataclasses.dataclass(frozen=True)
class Named:
  """An objective that configs can name; its own keys are `config.NAME.*`.

  Attributes:
    make: Makes it from a resolved config and the networks of its fixed weights.
    check: Raises InputError for a value of its keys that cannot work.
    fixed: The config key of the weights that it reads and never changes, by the
      name that it has for them.
  """

  make: Callable[[Any, Mapping[str, Any]], Objective]
  check: Callable[[Any], None] = lambda config: None
  fixed: Mapping[str, str] = dataclasses.field(default_factory=dict)


def _classify_fields(config: Any) -> dict[str, Any]:
  return {
    "network": models.create(
      num_classes=config.resolved.num_classes, **config.model
    ),
    "loss_name": config.loss,
    "mixup_alpha": config.resolved.mixup_alpha,
  }


def _classify(config: Any, networks: Mapping[str, Any]) -> Objective:
  del networks
  return Classify(**_classify_fields(config))


def _distill(config: Any, networks: Mapping[str, Any]) -> Objective:
  return Distill(
    **_classify_fields(config),
    teacher=networks["teacher"],
    temperature=config.distill.temperature,
    label_weight=config.distill.label_weight,
  )


def _check_distill(config: Any) -> None:
  temperature = config.distill.temperature
  if not 0 < temperature < math.inf:
    raise InputError(
      f"config.distill.temperature={temperature}: expected more than 0"
    )
  if not 0 <= config.distill.label_weight <= 1:
    raise InputError(
      f"config.distill.label_weight={config.distill.label_weight}: expected 0 "
      f"to 1"
    )
  if config.loss != "softmax":
    raise InputError(
      f"config.loss={config.loss!r}: expected 'softmax' with config.objective="
      f"'distill', whose teacher gives one distribution for an image"
    )
  if not config.distill.teacher:
    raise InputError(
      "config.distill.teacher is empty: expected a .npz, a work directory, a "
      "checkpoint or the name of a release"
    )


OBJECTIVES: Mapping[str, Named] = {
  "classify": Named(_classify),
  "distill": Named(
    _distill, check=_check_distill, fixed={"teacher": "distill.teacher"}
  ),
}
