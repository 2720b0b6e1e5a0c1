"""Exact metrics over a whole split, on any number of devices and hosts."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bit_jax import models
from bit_jax.data import pipeline
from bit_jax.data.preprocess import Preprocess
from bit_jax.data.source import Source
from bit_jax.evaluate import inference
from bit_jax.objectives import losses
from bit_jax.parallel import sharding
from bit_jax.recipe.load import Config


def make_eval_step(config: Config, mesh: Mesh) -> inference.InferenceStep:
  """Builds the evaluation step of a run.

  Args:
    config: a resolved one; the same model and loss give the same step, so that
      runs in one process share the compiled function.
    mesh: what batches are split over.

  Returns:
    As `make_step` does.
  """
  model: Any = models.create(
    num_classes=config.resolved.num_classes, **config.model
  )
  return make_step(model, config.loss, mesh)


@functools.lru_cache(maxsize=16)
def make_step(model: Any, loss: str, mesh: Mesh) -> inference.InferenceStep:
  """Builds the step that counts right guesses.

  Args:
    model: a network of `models.create`.
    loss: a key of `losses.LOSSES`.
    mesh: what batches are split over.

  Returns:
    A step whose outputs are `count`, `correct` and `correct_top5` (int32) and
    `loss` (float32), each summed over the examples with mask 1; and for each
    row of the batch `index` (int32) and `right` (bool): whether it is an
    example whose first guess is right.
  """
  top = min(5, model.num_classes)
  model, prepare = inference.for_inference(model, mesh)

  def step(variables, batch):
    logits: Any = model.apply(variables, models.scale_images(batch["images"]))
    targets = losses.dense_targets(batch["labels"], logits.shape[-1])
    mask = batch["mask"]
    # A multi-label example counts as right if its first guess is among them.
    guesses = jax.lax.top_k(logits, top)[1]
    hits = jnp.take_along_axis(targets, guesses, axis=1) * mask[:, None] > 0
    return {
      "count": mask.astype(jnp.int32).sum(),
      "loss": (losses.LOSSES[loss](logits, targets) * mask).sum(),
      "correct": hits[:, 0].sum(dtype=jnp.int32),
      "correct_top5": hits.any(-1).sum(dtype=jnp.int32),
      "index": batch["index"],
      "right": hits[:, 0],
    }

  return inference.InferenceStep(
    prepare, jax.jit(step, out_shardings=sharding.replicated(mesh))
  )


def evaluate_split(
  eval_step: inference.InferenceStep,
  variables: Any,
  source: Source,
  preprocess: Preprocess,
  *,
  batch_size: int,
  mesh: Mesh,
  num_threads: int = 0,
  after_batch: Callable[[], None] = lambda: None,
  right: np.ndarray | None = None,
) -> dict[str, float]:
  """Computes metrics over every example of a source, none dropped or doubled.

  Args:
    eval_step: of `make_eval_step` or `make_step`.
    variables: {"params": ..., "batch_stats": ...}.
    source: the split.
    preprocess: a deterministic one.
    batch_size: global; 0 for `default_batch_size`.
    mesh: what batches are split over.
    num_threads: that decode; 0: one for each core.
    after_batch: called after each batch; what it raises ends the evaluation.
    right: bool[examples] to be set where the first guess is right.

  Returns:
    `loss` (mean), `accuracy` and `top5_accuracy` (0 to 1; the latter counts
    the top min(5, classes) guesses) and `examples`.
  """
  batch_size = batch_size or inference.default_batch_size(len(source), mesh)
  sharding.check_batch_size(batch_size, mesh, "config.eval.batch_size")
  totals = dict.fromkeys(("count", "loss", "correct", "correct_top5"), 0.0)
  variables, in_flight = eval_step.prepare(variables), []

  def read_oldest():
    outputs = jax.device_get(in_flight.pop(0))
    for key in totals:
      totals[key] += np.float64(outputs[key])
    if right is not None:
      right[outputs["index"][outputs["right"]]] = True

  with pipeline.eval_batches(
    source,
    preprocess,
    batch_size=batch_size,
    mesh=mesh,
    num_threads=num_threads,
  ) as batches:
    for batch in batches:
      in_flight.append(eval_step.run(variables, batch))
      if len(in_flight) > 1:
        read_oldest()
      after_batch()
  while in_flight:
    read_oldest()
  count = totals["count"]
  assert count == len(source), f"evaluated {count} of {len(source)} examples"
  return {
    "loss": float(totals["loss"] / count),
    "accuracy": float(totals["correct"] / count),
    "top5_accuracy": float(totals["correct_top5"] / count),
    "examples": int(count),
  }
