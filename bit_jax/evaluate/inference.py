"""Applies networks that are not trained, and computes their features.

The opening lines of every command that uses finished weights:

  model, variables = inference.network(weights.load(path))
  step = inference.make_feature_step(model, mesh)
  prepared = step.prepare(variables)
  features, labels = step.run(prepared, batch)
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bit_jax import models, progress
from bit_jax.data import pipeline
from bit_jax.data.preprocess import Preprocess
from bit_jax.data.source import Source
from bit_jax.evaluate import feature_cache
from bit_jax.parallel import sharding
from bit_jax.weights import Weights


@dataclasses.dataclass(frozen=True)
class InferenceStep:
  """A jitted inference function and the preparation of its weights.

  Attributes:
    prepare: Folds weight standardization into the variables {"params": ...,
      "batch_stats": ...} and replicates them on all devices; call it once per
      evaluation, not once per batch.
    run: Jitted; takes what `prepare` returned, a batch of
      `pipeline.eval_batches`, and what else the step needs.
  """

  prepare: Callable[[Any], Any]
  run: Callable[..., Any]


def network(loaded: Weights) -> tuple[Any, dict[str, Any]]:
  """Returns the network that weights belong to, and its variables."""
  model = models.create(
    loaded.variant, num_classes=loaded.num_classes, **loaded.model_options
  )
  return model, {"params": loaded.params, "batch_stats": loaded.batch_stats}


@functools.lru_cache(maxsize=16)
def make_fold(network: Any, mesh: Mesh) -> Callable[[Any], Any]:
  """Builds the jitted function from parameters to folded, replicated ones."""

  def fold(params):
    return models.fold(network, params)[1]

  return jax.jit(fold, out_shardings=sharding.replicated(mesh))


@functools.lru_cache(maxsize=16)
def for_inference(model: Any, mesh: Mesh) -> tuple[Any, Callable[[Any], Any]]:
  """Returns the network to apply, and `InferenceStep.prepare` for it.

  Weights are standardized when they are prepared, not with each batch.
  """
  fold = make_fold(model, mesh)

  def prepare(variables):
    variables = sharding.to_devices(variables, mesh)
    return {**variables, "params": fold(variables["params"])}

  return models.unstandardized(model), prepare


def abstract_prepared(model: Any, variables: Any, mesh: Mesh) -> Any:
  """Returns what `prepare` would of variables, as jax.ShapeDtypeStruct."""
  params = jax.eval_shape(make_fold(model, mesh), variables["params"])
  return sharding.abstract(
    {**variables, "params": params}, sharding.replicated(mesh)
  )


@functools.lru_cache(maxsize=8)
def make_feature_step(model: Any, mesh: Mesh) -> InferenceStep:
  """Builds the step that returns (float32[B, D] features, labels).

  The labels are int32[B], or uint8[B, classes] for multi-label sets; -1 where
  the source has none.
  """
  model, prepare = for_inference(model, mesh)

  def step(variables, batch):
    images = models.scale_images(batch["images"])
    _, features = model.apply(variables, images, return_features=True)
    rows = features["pre_logits"]
    return rows, batch.get("labels", jnp.full(len(rows), -1, jnp.int32))

  return InferenceStep(
    prepare, jax.jit(step, out_shardings=sharding.replicated(mesh))
  )


def default_batch_size(num_examples: int, mesh: Mesh) -> int:
  """Returns at most 64 rows a device, fewer where the split is short."""
  return mesh.size * min(64, -(-num_examples // mesh.size))


def feature_rows(
  feature_step: InferenceStep,
  prepare: Callable[[], Any],
  source: Source,
  preprocess: Preprocess,
  mesh: Mesh,
  *,
  batch_size: int,
  cache: feature_cache.FeatureCache | None = None,
) -> Iterator[np.ndarray]:
  """Returns the features and labels of a source in order, batch by batch.

  Args:
    feature_step: From `make_feature_step`.
    prepare: Returns what `feature_step.prepare` does; it is called only if a
      feature has to be computed.
    source: The images.
    preprocess: A deterministic preprocessing.
    mesh: The devices that batches are split over.
    batch_size: Rows in a batch.
    cache: Where features are stored; None to store them nowhere.

  Returns:
    An iterator of arrays of `feature_cache.row_dtype` [batch_size]; the last
    one holds what is left.
  """

  def compute():
    prepared, left = prepare(), len(source)
    with pipeline.eval_batches(
      source, preprocess, batch_size=batch_size, mesh=mesh
    ) as batches:
      computed = (feature_step.run(prepared, batch) for batch in batches)
      # While one batch is read, the next one is computed.
      ahead = itertools.pairwise(itertools.chain(computed, [None]))
      for outputs, _ in ahead:
        features, labels = map(np.asarray, outputs)
        rows = np.empty(len(labels), feature_cache.row_dtype(features.shape[1]))
        rows["features"], rows["label"] = features, labels
        yield rows[:left]
        left -= len(rows)

  if cache is None:
    found = compute()
  else:
    found = cache.rows(source, preprocess, batch_size, compute)
  return _shown(found, source)


def _shown(
  blocks: Iterator[np.ndarray], source: Source
) -> Iterator[np.ndarray]:
  """Yields blocks of rows, and shows how many are done."""
  what = f"features of {source.name}"
  with progress.activity(what, len(source), "images") as doing:
    yield from doing.counting(blocks)
