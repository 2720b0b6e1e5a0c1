"""Few-shot linear evaluation of frozen features, which takes seconds.

A ridge regression onto +-1 targets is solved in closed form on the features
before the head of k examples per class; the result is its accuracy on the whole
test split. The method is that of big_vision's evaluators/fewshot_lsr.py.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from bit_jax import progress
from bit_jax.data import subset
from bit_jax.data.preprocess import Preprocess
from bit_jax.data.source import Source
from bit_jax.evaluate import inference
from bit_jax.evaluate.feature_cache import FeatureCache

SHOTS = (1, 5, 10, 25)
SEEDS = 3
L2 = 2.0**10
# Value of the constant feature that stands for the bias.
BIAS = 100.0


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

  Features are standardized by the mean and the standard deviation (+ 1e-5) of
  the training features. The constant feature is regularized like the others. Of
  the primal and the dual system, which have the same solution, the smaller one
  is solved.

  Args:
    x: float[N, D], features of the training examples.
    y: int[N], labels of the training examples.
    x_test: float[M, D], features of the test examples.
    y_test: int[M], labels of the test examples.
    num_classes: Number of classes; labels are below it.
    l2: Weight of the squared norm.

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
  """Returns a square resize and central crop, 256 -> 224 or in proportion.

  Images of sets with a native size (glyphs, digits) stay as they are.

  Args:
    source: The images to evaluate on.
    crop_px: Side of the network's input, unless the set has a native size.
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
    feature_step: The result of `inference.make_feature_step`.
    variables: {"params": ..., "batch_stats": ...} of the network.
    train: The examples from which k per class are drawn.
    test: The examples to evaluate on.
    preprocess: Applied to train and test images.
    mesh: The mesh over whose devices batches are split.
    shots: Numbers of examples per class.
    seeds: Subsets drawn for each number of shots.
    cache: Cache of the features; None computes them anew.

  Returns:
    {"5shot_accuracy": accuracy, ...}, each from 0 to 1.

  Raises:
    InputError: A class has too few training examples.
  """
  with progress.activity(f"reading the labels of {train.name}"):
    all_labels = train.read_labels()
  draws = {
    (k, seed): subset.few_shot_indices(
      all_labels, k, seed, train.num_classes, train.class_names
    )
    for k in shots
    for seed in range(seeds)
  }
  # The features of an example are computed once, however many subsets use it.
  used = np.unique(np.concatenate(list(draws.values())))
  pool = subset.take(train, used, f"{train.name}, few-shot")
  prepare = functools.cache(lambda: feature_step.prepare(variables))
  # With one batch size for both sets, one step is compiled.
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
  with progress.activity(
    "fitting few-shot classifiers", len(draws), "of them"
  ) as doing:
    for k in shots:
      accuracies = []
      for seed in range(seeds):
        rows = np.searchsorted(used, draws[k, seed])
        accuracies.append(
          ridge_accuracy(
            x[rows], y[rows], x_test, y_test, num_classes=train.num_classes
          )
        )
        doing.add()
      result[f"{k}shot_accuracy"] = float(np.mean(accuracies))
  return result
