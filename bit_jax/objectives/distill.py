"""Distillation: a student learns what a teacher says of the same pixels."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bit_jax import models
from bit_jax.objectives.classify import FITTED, Classify
from bit_jax.objectives.objective import Aux, Batch, Scores


def soft_loss(
  logits: jax.Array, teacher_logits: jax.Array, temperature: float
) -> jax.Array:
  """Returns temperature^2 KL(teacher || student) for each row.

  Both distributions are softened by the temperature; its square keeps the scale
  of the gradient (Hinton et al., arXiv 1503.02531, section 2.1).

  Args:
    logits: float[N, C] of the student.
    teacher_logits: float[N, C]; no gradient flows into them.
    temperature: Above 0.

  Returns:
    float[N], 0 where both say the same.
  """
  teacher_logits = jax.lax.stop_gradient(teacher_logits)
  kl = optax.losses.kl_divergence_with_log_targets(
    jax.nn.log_softmax(logits / temperature),
    jax.nn.log_softmax(teacher_logits / temperature),
  )
  return temperature**2 * kl


@dataclasses.dataclass(frozen=True)
class Distill(Classify):
  """Classification with a teacher (Hinton et al., arXiv 1503.02531).

  The loss is label_weight x the label loss + (1 - label_weight) x `soft_loss`.
  Student and teacher see the same, mixed pixels. The teacher's folded variables
  are `fixed["teacher"]`: read by the step, never changed or saved.

  Attributes:
    teacher: The network of the teacher, with as many classes.
    temperature: Softens both distributions.
    label_weight: Weight of the labels' own loss, 0 to 1; 0 learns from the
      teacher alone (arXiv 2106.05237).
  """

  teacher: Any = None
  temperature: float = 1.0
  label_weight: float = 0.0

  def teacher_logits(self, fixed: Any, images: jax.Array) -> jax.Array:
    """Returns what the teacher says of float32[N, H, W, 3] images."""
    return models.unstandardized(self.teacher).apply(fixed["teacher"], images)

  def loss(
    self, params: Any, carried: Any, batch: Batch, fixed: Any, rng: jax.Array
  ) -> tuple[jax.Array, Aux]:
    """Returns the weighted mean of both losses, and logs each of them."""
    del rng
    logits, carried = self.train_logits(params, carried, batch["images"])
    teacher_logits = self.teacher_logits(fixed, batch["images"])
    soft = soft_loss(logits, teacher_logits, self.temperature).mean()
    label = self.label_loss(logits, batch["targets"]).mean()
    value = self.label_weight * label + (1 - self.label_weight) * soft
    same = logits.argmax(-1) == teacher_logits.argmax(-1)
    scalars = {
      "soft_loss": soft,
      "label_loss": label,
      "agreement": same.mean(dtype=jnp.float32),
    }
    scalars |= self.train_scalars(logits, batch["targets"])
    return value, Aux(scalars, carried)

  def shortcoming(self, scalars: Mapping[str, float]) -> str:
    """Says if the student does not yet say what its teacher says."""
    # The teacher may be wrong about the labels, and then so is the student.
    agreement = scalars.get("agreement", 1.0)
    if agreement >= FITTED:
      return ""
    return (
      f"the student does not yet follow its teacher on the training images "
      f"(the same first guess on {100 * agreement:.0f} %)"
    )

  def score(
    self, params: Any, carried: Any, batch: Batch, fixed: Any
  ) -> Scores:
    """Adds to the scores of `Classify` how close both networks are."""
    logits = self.logits(params, carried, batch)
    scores = self.score_logits(logits, batch)
    images, mask = models.scale_images(batch["images"]), batch["mask"]
    teacher_logits = self.teacher_logits(fixed, images)
    same = logits.argmax(-1) == teacher_logits.argmax(-1)
    sums = {
      "agreement": (same * mask).sum(dtype=jnp.int32),
      "soft_loss": (
        soft_loss(logits, teacher_logits, self.temperature) * mask
      ).sum(),
    }
    return Scores({**scores.sums, **sums}, scores.rows)

  def summarize(
    self, sums: Mapping[str, float], rows: Mapping[str, np.ndarray]
  ) -> dict[str, float]:
    """Adds the share of equal first guesses, and the mean soft loss."""
    return {
      **super().summarize(sums, rows),
      "agreement": float(sums["agreement"] / sums["examples"]),
      "soft_loss": float(sums["soft_loss"] / sums["examples"]),
    }
