"""Few-shot linear evaluation: how good frozen features are, in seconds.

A ridge regression onto +-1 targets, solved exactly, on the features before the
head of k examples per class; accuracy on the whole test split. As big_vision's
evaluators/fewshot_lsr.py does it.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from bit_jax.data import subset
from bit_jax.data.preprocess import Preprocess
from bit_jax.data.source import Source
from bit_jax.evaluate import inference
from bit_jax.evaluate.feature_cache import FeatureCache

SHOTS = (1, 5, 10, 25)
SEEDS = 3
L2 = 2.0**10
BIAS = 100.0  # Value of the constant feature.


def ridge_accuracy(
  x: np.ndarray,
  y: np.ndarray,
  x_test: np.ndarray,
  y_test: np.ndarray,
  *,
  num_classes: int,
  l2: float = L2,
) -> float:
  """Fits one linear layer in closed form and returns its test accuracy.

  Features are standardized by mean and deviation (+ 1e-5) of the training
  ones; the constant feature is regularized like the others. The system solved
  is the smaller of the primal and the dual one; both have the same solution.

  Args:
    x: float[N, D] training features.
    y: int[N] their labels.
    x_test: float[M, D] test features.
    y_test: int[M] their labels.
    num_classes: labels are below it.
    l2: weight of the squared norm.

  Returns:
    The share of test examples whose largest output is their label, 0 to 1.
  """
  x, x_test = x.astype(np.float64), x_test.astype(np.float64)
  mean, std = x.mean(0), x.std(0) + 1e-5

  def prepare(features):
    standardized = (features - mean) / std
    return np.pad(standardized, ((0, 0), (0, 1)), constant_values=BIAS)

  x, x_test = prepare(x), prepare(x_test)
  targets = 2.0 * np.eye(num_classes)[y] - 1.0
  if x.shape[0] >= x.shape[1]:
    gram = x.T @ x + l2 * np.eye(x.shape[1])
    weights = np.linalg.solve(gram, x.T @ targets)
  else:
    gram = x @ x.T + l2 * np.eye(x.shape[0])
    weights = x.T @ np.linalg.solve(gram, targets)
  return float(np.mean((x_test @ weights).argmax(1) == y_test))


def default_preprocess(source: Source, crop_px: int = 224) -> Preprocess:
  """Returns square resize and central crop, 256 -> 224 or in proportion.

  Sets of a native size (glyphs, digits) are taken as they are.
  """
  if source.native_px:
    return Preprocess("none", source.native_px)
  return Preprocess("square_central", crop_px, round(crop_px * 8 / 7))


def evaluate_few_shot(
  feature_step: inference.InferenceStep,
  variables: Any,
  train: Source,
  test: Source,
  preprocess: Preprocess,
  mesh: Mesh,
  *,
  shots: Sequence[int] = SHOTS,
  seeds: int = SEEDS,
  cache: FeatureCache | None = None,
) -> dict[str, float]:
  """Returns the mean accuracy over balanced subsets for each number of shots.

  Args:
    feature_step: of `make_feature_step`.
    variables: {"params": ..., "batch_stats": ...}.
    train: where the k examples per class are drawn from.
    test: all of it is evaluated on.
    preprocess: of both.
    mesh: what batches are split over.
    shots: examples per class.
    seeds: subsets drawn for each of them.
    cache: where features are kept; None: nowhere.

  Returns:
    {`5shot_accuracy`: 0 to 1, ...}.

  Raises:
    InputError: a class has fewer examples.
  """
  all_labels = train.read_labels()
  draws = {
    (k, seed): subset.few_shot_indices(
      all_labels, k, seed, train.num_classes, train.class_names
    )
    for k in shots
    for seed in range(seeds)
  }
  # Each example's features are computed once, however many subsets have it.
  used = np.unique(np.concatenate(list(draws.values())))
  pool = subset.take(train, used, f"{train.name}, few-shot")
  prepare = functools.cache(lambda: feature_step.prepare(variables))
  # One size for both: one compiled step.
  size = inference.default_batch_size(max(len(pool), len(test)), mesh)

  def compute(source):
    rows = inference.feature_rows(
      *(feature_step, prepare, source, preprocess, mesh),
      batch_size=size,
      cache=cache,
    )
    rows = np.concatenate(list(rows))
    return rows["features"], rows["label"]

  x, y = compute(pool)
  x_test, y_test = compute(test)
  result = {}
  for k in shots:
    accuracies = []
    for seed in range(seeds):
      rows = np.searchsorted(used, draws[k, seed])
      accuracies.append(
        ridge_accuracy(
          x[rows], y[rows], x_test, y_test, num_classes=train.num_classes
        )
      )
    result[f"{k}shot_accuracy"] = float(np.mean(accuracies))
  return result
