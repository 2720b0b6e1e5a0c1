"""Classification, the objective of the paper's recipes."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bit_jax import models
from bit_jax.objectives import losses
from bit_jax.objectives.objective import Aux, Batch, Objective, Scores

# A training accuracy from which the training images count as fitted.
FITTED = 0.9


@dataclasses.dataclass(frozen=True)
class Classify(Objective):
  """Learns the classes of images, one or several for each (paper section 3.3).

  Attributes:
    loss_name: A key of `losses.LOSSES`.
    mixup_alpha: Parameter of mixup's Beta distribution; 0 for no mixup.
  """

  loss_name: str = "softmax"
  mixup_alpha: float = 0.0

  def batch_spec(self, rows: int, image_px: int) -> dict[str, Any]:
    """Returns uint8 images, int32 class ids and the examples' indices.

    Of a multi-label set the labels are uint8[rows, classes] instead.
    """
    return {
      "images": jax.ShapeDtypeStruct((rows, image_px, image_px, 3), jnp.uint8),
      "labels": jax.ShapeDtypeStruct((rows,), jnp.int32),
      "index": jax.ShapeDtypeStruct((rows,), jnp.int32),
    }

  def prepare(self, batch: Batch, rng: jax.Array) -> Batch:
    """Returns float32 mixed `images` [N, H, W, 3] and `targets` [N, C]."""
    images = models.scale_images(batch["images"])
    targets = losses.dense_targets(batch["labels"], self.network.num_classes)
    images, targets = losses.mixup(rng, images, targets, self.mixup_alpha)
    return {"images": images, "targets": targets}

  def label_loss(self, logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Returns the loss [N] of float[N, C] logits and targets."""
    return losses.LOSSES[self.loss_name](logits, targets)

  def train_logits(
    self, params: Any, carried: Any, images: jax.Array
  ) -> tuple[jax.Array, Any]:
    """Returns the logits of training, and the next running statistics."""
    return models.unstandardized(self.network).apply(
      {"params": params, **carried},
      images,
      train=True,
      mutable=list(carried),
    )

  def logits(self, params: Any, carried: Any, batch: Batch) -> jax.Array:
    """Returns the float32[N, C] logits of an evaluation batch."""
    return models.unstandardized(self.network).apply(
      {"params": params, **carried}, models.scale_images(batch["images"])
    )

  def loss(
    self, params: Any, carried: Any, batch: Batch, fixed: Any, rng: jax.Array
  ) -> tuple[jax.Array, Aux]:
    """Returns the mean of the loss on the mixed targets."""
    del fixed, rng
    logits, carried = self.train_logits(params, carried, batch["images"])
    value = self.label_loss(logits, batch["targets"]).mean()
    return value, Aux(self.train_scalars(logits, batch["targets"]), carried)

  @property
  def _accuracy_name(self) -> str:
    return "mixed_accuracy" if self.mixup_alpha else "accuracy"

  def train_scalars(
    self, logits: jax.Array, targets: jax.Array
  ) -> dict[str, jax.Array]:
    """Returns the training accuracy: the share of right first guesses.

    Of images that are mixed, it is called `mixed_accuracy`: right is the class
    that weighs most in the mixed targets. An example of several classes counts
    as right if the guess is one of them.
    """
    # No part of the gradient: the same bits are learned without it.
    logits = jax.lax.stop_gradient(logits)
    guess = logits.argmax(-1, keepdims=True)
    weight = jnp.take_along_axis(targets, guess, axis=-1)[:, 0]
    right = (weight == targets.max(-1)) & (weight > 0)
    return {self._accuracy_name: right.mean(dtype=jnp.float32)}

  def shortcoming(self, scalars: Mapping[str, float]) -> str:
    """Says if the training images are not fitted: an accuracy below 90 %."""
    accuracy = scalars.get(self._accuracy_name, 1.0)
    if accuracy >= FITTED:
      return ""
    kind = (
      "training accuracy, of mixed images,"
      if self.mixup_alpha
      else ("training accuracy")
    )
    return (
      f"the network has not yet fitted its training images ({kind} "
      f"{math.floor(100 * accuracy)} %)"
    )

  def score(
    self, params: Any, carried: Any, batch: Batch, fixed: Any
  ) -> Scores:
    """Counts right guesses; `right` says for each row if the first one is."""
    del fixed
    return self.score_logits(self.logits(params, carried, batch), batch)

  def score_logits(self, logits: jax.Array, batch: Batch) -> Scores:
    """Returns the scores of logits that are computed already."""
    targets = losses.dense_targets(batch["labels"], logits.shape[-1])
    mask = batch["mask"]
    # A multi-label example counts as right if its first guess is among them.
    guesses = jax.lax.top_k(logits, min(5, logits.shape[-1]))[1]
    hits = jnp.take_along_axis(targets, guesses, axis=1) * mask[:, None] > 0
    sums = {
      "loss": (self.label_loss(logits, targets) * mask).sum(),
      "correct": hits[:, 0].sum(dtype=jnp.int32),
    }
    # Five guesses of five classes are always right.
    if logits.shape[-1] > 5:
      sums["correct_top5"] = hits.any(-1).sum(dtype=jnp.int32)
    return Scores(sums, {"right": hits[:, 0]})

  def summarize(
    self, sums: Mapping[str, float], rows: Mapping[str, np.ndarray]
  ) -> dict[str, float]:
    """Returns the mean loss, accuracy and top-5 accuracy (0 to 1), examples.

    There is no top-5 accuracy of five classes or fewer.
    """
    del rows
    count = sums["examples"]
    found = {
      "loss": float(sums["loss"] / count),
      "accuracy": float(sums["correct"] / count),
    }
    if "correct_top5" in sums:
      found["top5_accuracy"] = float(sums["correct_top5"] / count)
    return {**found, "examples": int(count)}
