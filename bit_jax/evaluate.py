"""Exact metrics over a whole split, on any number of devices and hosts."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bit_jax import losses, models, parallel
from bit_jax.data import pipeline
from bit_jax.data.preprocess import Preprocess
from bit_jax.data.source import Source
from bit_jax.recipe import Config


def scale_images(images: jax.Array) -> jax.Array:
  """Maps uint8[N, H, W, 3] to float32 in [-1, 1]."""
  return images.astype(jnp.float32) / 127.5 - 1.0


def make_eval_step(
  config: Config, mesh: Mesh
) -> Callable[[Any, pipeline.Batch], dict[str, jax.Array]]:
  """Builds the jitted function (variables, batch) -> sums over the batch.

  Args:
    config: a resolved one; the same model and loss give the same function, so
      that runs in one process share the compiled step.
    mesh: what batches are split over.

  Returns:
    A function whose result has `count`, `correct` and `correct_top5` (int32)
    and `loss` (float32), each summed over the examples with mask 1.
  """
  model: Any = models.create(
    num_classes=config.resolved.num_classes, **config.model
  )
  return _make_eval_step(model, config.loss, mesh)


@functools.lru_cache(maxsize=16)
def _make_eval_step(model: models.ResNetV2, loss: str, mesh: Mesh):
  top = min(5, model.num_classes)

  def step(variables, batch):
    variables = parallel.gathered(variables, mesh)
    logits: Any = model.apply(variables, scale_images(batch["images"]))
    targets = losses.dense_targets(batch["labels"], model.num_classes)
    mask = batch["mask"]
    # A multi-label example counts as right if its first guess is among them.
    guesses = jax.lax.top_k(logits, top)[1]
    hits = jnp.take_along_axis(targets, guesses, axis=1) * mask[:, None] > 0
    return {
      "count": mask.astype(jnp.int32).sum(),
      "loss": (losses.LOSSES[loss](logits, targets) * mask).sum(),
      "correct": hits[:, 0].sum(dtype=jnp.int32),
      "correct_top5": hits.any(-1).sum(dtype=jnp.int32),
    }

  return jax.jit(step, out_shardings=parallel.replicated(mesh))


def default_batch_size(num_examples: int, mesh: Mesh) -> int:
  """Returns at most 64 rows a device, fewer where the split is short."""
  return mesh.size * min(64, -(-num_examples // mesh.size))


def evaluate(
  eval_step: Callable[[Any, pipeline.Batch], dict[str, jax.Array]],
  variables: Any,
  source: Source,
  preprocess: Preprocess,
  *,
  batch_size: int,
  mesh: Mesh,
  num_threads: int = 0,
  after_batch: Callable[[], None] = lambda: None,
) -> dict[str, float]:
  """Computes metrics over every example of a source, none dropped or doubled.

  Args:
    eval_step: of `make_eval_step`.
    variables: {"params": ..., "batch_stats": ...}.
    source: the split.
    preprocess: a deterministic one.
    batch_size: global; 0 for `default_batch_size`.
    mesh: what batches are split over.
    num_threads: that decode; 0: one for each core.
    after_batch: called after each batch; what it raises ends the evaluation.

  Returns:
    `loss` (mean), `accuracy` and `top5_accuracy` (0 to 1; the latter counts
    the top min(5, classes) guesses) and `examples`.
  """
  batch_size = batch_size or default_batch_size(len(source), mesh)
  parallel.check_batch_size(batch_size, mesh, "config.eval.batch_size")
  totals = dict.fromkeys(("count", "loss", "correct", "correct_top5"), 0.0)
  in_flight = []

  def read_oldest():
    sums = jax.device_get(in_flight.pop(0))
    for key in totals:
      totals[key] += np.float64(sums[key])

  with pipeline.eval_batches(
    source,
    preprocess,
    batch_size=batch_size,
    mesh=mesh,
    num_threads=num_threads,
  ) as batches:
    for batch in batches:
      in_flight.append(eval_step(variables, batch))
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
