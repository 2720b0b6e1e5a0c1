"""Exact metrics over a whole split, on any number of devices and hosts.

What the metrics are is the objective's: it scores each batch inside jit and
summarizes the totals on the host.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bit_jax import progress
from bit_jax.data import pipeline
from bit_jax.data.preprocess import Preprocess
from bit_jax.data.source import Source
from bit_jax.evaluate import inference
from bit_jax.objectives.objective import Objective
from bit_jax.parallel import sharding


@functools.lru_cache(maxsize=16)
def make_score_step(
  objective: Objective, mesh: Mesh
) -> inference.InferenceStep:
  """Builds the step that scores one batch.

  Args:
    objective: Says what is scored; equal ones share the compiled function.
    mesh: The devices that batches are split over.

  Returns:
    A step whose `prepare` takes (params, carried) and whose `run` takes what it
    returned, a batch of `pipeline.eval_batches` and the fixed arrays. It
    returns (sums, rows): the objective's, the number of `examples` in sums,
    `index` and `mask` of each in rows.
  """
  whole = sharding.replicated(mesh)
  fold: Any = inference.make_fold(objective.network, mesh)
  if type(objective).fold is not Objective.fold:
    fold = jax.jit(objective.fold, out_shardings=whole)

  def prepare(variables):
    params, carried = sharding.to_devices(variables, mesh)
    return fold(params), carried

  def step(prepared, batch, fixed=()):
    params, carried = prepared
    scores = objective.score(params, carried, batch, fixed)
    examples = batch["mask"].astype(jnp.int32).sum()
    sums = {**scores.sums, "examples": examples}
    # The rows that fill the last batch up are told by their mask.
    place = {"index": batch["index"], "mask": batch["mask"]}
    assert "examples" not in scores.sums
    assert not place.keys() & scores.rows.keys()
    return sums, {**scores.rows, **place}

  return inference.InferenceStep(prepare, jax.jit(step, out_shardings=whole))


def score_split(
  objective: Objective,
  params: Any,
  carried: Any,
  source: Source,
  preprocess: Preprocess,
  *,
  mesh: Mesh,
  batch_size: int = 0,
  fixed: Any = (),
  num_threads: int = 0,
  after_batch: Callable[[], None] = lambda: None,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """Scores every example of a source, none dropped or doubled.

  Args:
    objective: Says what is scored.
    params: Parameters of its network, not folded.
    carried: As in the train state.
    source: The split.
    preprocess: A deterministic preprocessing.
    mesh: The devices that batches are split over.
    batch_size: Global number of rows; 0 for `inference.default_batch_size`.
    fixed: The fixed arrays of the objective.
    num_threads: Decoding threads; 0 means one per core.
    after_batch: Called after each batch; what it raises ends the evaluation.

  Returns:
    (sums, rows): float64 totals with `examples`, and arrays [examples, ...] in
    the order of the source.
  """
  batch_size = batch_size or inference.default_batch_size(len(source), mesh)
  sharding.check_batch_size(batch_size, mesh, "config.eval.batch_size")
  score_step = make_score_step(objective, mesh)
  prepared = score_step.prepare((params, carried))
  sums: dict[str, Any] = {}
  rows: dict[str, np.ndarray] = {}
  in_flight = []

  def read_oldest():
    part, columns = jax.device_get(in_flight.pop(0))
    for key, value in part.items():
      sums[key] = sums.get(key, 0.0) + np.float64(value)
    real = columns.pop("mask") > 0
    index = columns.pop("index")[real]
    for key, values in columns.items():
      if key not in rows:
        rows[key] = np.zeros((len(source), *values.shape[1:]), values.dtype)
      rows[key][index] = values[real]

  with (
    progress.activity(
      f"evaluating {source.name}", len(source), "examples"
    ) as doing,
    pipeline.eval_batches(
      source,
      preprocess,
      batch_size=batch_size,
      mesh=mesh,
      num_threads=num_threads,
    ) as batches,
  ):
    for batch in batches:
      in_flight.append(score_step.run(prepared, batch, fixed))
      # One batch is read while the next one is computed.
      if len(in_flight) > 1:
        read_oldest()
        doing.add(batch_size)
      after_batch()
    while in_flight:
      read_oldest()
  count = sums["examples"]
  assert count == len(source), f"evaluated {count} of {len(source)} examples"
  return sums, rows


def evaluate_split(
  objective: Objective, *args: Any, **kwargs: Any
) -> dict[str, float]:
  """Returns the metrics of an objective over every example of a source.

  Takes what `score_split` takes.
  """
  return objective.summarize(*score_split(objective, *args, **kwargs))
