"""The objectives that `config.objective` can name."""

from collections.abc import Callable, Mapping
from typing import Any

from bit_jax import models
from bit_jax.objectives.classify import Classify
from bit_jax.objectives.distill import Distill
from bit_jax.objectives.objective import Objective


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


def _classify_fields(config: Any) -> dict[str, Any]:
  return {
    "network": models.create(
      num_classes=config.resolved.num_classes, **config.model
    ),
    "loss_name": config.loss,
    "mixup_alpha": config.resolved.mixup_alpha,
  }


OBJECTIVES: Mapping[str, Callable[[Any, Mapping[str, Any]], Objective]] = {
  "classify": _classify,
  "distill": _distill,
}


def make(config: Any, networks: Mapping[str, Any]) -> Objective:
  """Returns the objective of a resolved config.

  Args:
    config: As `recipe.resolve.resolve` returns it.
    networks: The networks of the fixed weights that the config names, such as
      {"teacher": ...}; see `run.fixed`.
  """
  return OBJECTIVES[config.objective](config, networks)
