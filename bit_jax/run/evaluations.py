"""Every way a run's state is evaluated, as functions by name."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from bit_jax.data.preprocess import Preprocess
from bit_jax.evaluate import fewshot, inference, metrics
from bit_jax.recipe.load import Config
from bit_jax.run.sources import FewshotSet, RunData
from bit_jax.run.step import StepSpec, TrainState

# From a state, and what is called after each batch, to metrics.
Evaluate = Callable[[TrainState, Callable[[], None]], dict[str, float]]


def make(
  config: Config,
  spec: StepSpec,
  data: RunData,
  fewshot_sets: Mapping[str, FewshotSet],
  preprocess: Preprocess,
  fixed: Any,
) -> dict[str, Evaluate]:
  """Returns the evaluations of a run by the name that its metrics have.

  Args:
    config: Resolved.
    spec: Of the run's step; its objective says what is measured.
    data: Holds the evaluation splits.
    fewshot_sets: Data sets for few-shot linear evaluation.
    preprocess: The preprocessing of evaluation.
    fixed: The fixed arrays of the objective.
  """
  # One size for all splits: one compiled step.
  longest = max(map(len, data.evals.values()), default=0)
  batch_size = config.eval.batch_size
  batch_size = batch_size or inference.default_batch_size(longest, spec.mesh)

  def on_split(source, state, after_batch):
    return metrics.evaluate_split(
      spec.objective,
      state.params,
      state.carried,
      source,
      preprocess,
      mesh=spec.mesh,
      batch_size=batch_size,
      num_threads=config.input.num_threads,
      fixed=fixed,
      after_batch=after_batch,
    )

  def few_shot(sets, state, after_batch):
    del after_batch
    return fewshot.evaluate_few_shot(
      inference.make_feature_step(spec.objective.network, spec.mesh),
      state.variables,
      sets.train,
      sets.test,
      fewshot.default_preprocess(sets.train, config.resolved.crop_px),
      spec.mesh,
      shots=config.eval.fewshot_shots,
    )

  evaluations: dict[str, Evaluate] = {}
  for name, source in data.evals.items():
    evaluations[name] = functools.partial(on_split, source)
  for name, sets in fewshot_sets.items():
    evaluations[f"fewshot_{name}"] = functools.partial(few_shot, sets)
  return evaluations
