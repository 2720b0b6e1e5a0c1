"""Exact search for the nearest examples of one set to those of another.

The distance of two examples is 1 - cosine of their features: 0 to 1, as the
features before the head are not negative. It does not depend on other examples.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bit_jax.parallel import sharding

_BLOCK = 256


@jax.jit
def normalize(features: jax.Array) -> jax.Array:
  """Scales features float[B, D] >= 0 to length 1, as float32."""
  # The features of a blank image may all be 0. The offset gives them a
  # direction, so that blank images are near each other.
  features = features.astype(jnp.float32) + 1e-6
  return features / jnp.linalg.norm(features, axis=1, keepdims=True)


def blocks_of(features: np.ndarray) -> Iterator[np.ndarray]:
  """Yields the rows of float32[N, D] in blocks of one size, for `search`."""
  shape = _BLOCK, features.shape[1]
  for start in range(0, len(features), _BLOCK):
    yield np.resize(features[start : start + _BLOCK], shape)


@functools.lru_cache(maxsize=8)
def _make_search_step(mesh: Mesh) -> Callable[..., tuple[jax.Array, jax.Array]]:
  """Builds the function that adds one block of the index to the search.

  Its arguments, with queries split over the mesh:
    best: (cosines float32[Q, k], numbers int32[Q, k]) of the nearest so far.
    queries: float32[Q, D], features of the query examples.
    itself: int32[Q], the number that is not a neighbour of each query; -1 for
      none.
    block: float32[B, D], features of the block.
    start: Number of the block's first example.
    stop: Number of examples in the index.

  It returns the new `best`.
  """

  def step(best, queries, itself, block, start, stop):
    cosines = jnp.matmul(queries, block.T, precision="highest")
    numbers = jnp.broadcast_to(start + jnp.arange(len(block)), cosines.shape)
    usable = (numbers < stop) & (numbers != itself[:, None])
    cosines = jnp.where(usable, cosines, -jnp.inf)
    cosines = jnp.concatenate([best[0], cosines], axis=1)
    numbers = jnp.concatenate([best[1], numbers], axis=1)
    # Among equal cosines top_k keeps the first, which has the lowest number.
    cosines, places = jax.lax.top_k(cosines, best[0].shape[1])
    return cosines, jnp.take_along_axis(numbers, places, axis=1)

  split, whole = sharding.split(mesh).spec, sharding.replicated(mesh).spec
  specs = (split, split, split, whole, whole, whole)
  return jax.jit(
    jax.shard_map(step, mesh=mesh, in_specs=specs, out_specs=split)
  )


def search(
  queries: np.ndarray,
  blocks: Iterable[Any],
  size: int,
  neighbours: int,
  mesh: Mesh,
  *,
  within: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
  """Finds the nearest index examples of each query example.

  Args:
    queries: float32[Q, D], features of length 1.
    blocks: float32[B, D] blocks of features of length 1: the index in order,
      in blocks of one size. Rows that pad the last block are ignored.
    size: Number of examples in the index.
    neighbours: Neighbours to find for each query; a small index yields fewer.
    mesh: The mesh over whose devices the queries are split.
    within: The query is the index; no example is its own neighbour.

  Returns:
    (distances float32[Q, k] in ascending order, numbers int32[Q, k]). Equally
    near examples are in the order of their numbers.
  """
  num_queries, k = len(queries), min(neighbours, size - within)
  padding = -num_queries % mesh.size
  rows = num_queries + padding
  best, queries, itself = jax.device_put(
    (
      (np.full((rows, k), -np.inf, "f"), np.full((rows, k), -1, np.int32)),
      np.pad(queries, ((0, padding), (0, 0))) if padding else queries,
      np.arange(rows, dtype="i") if within else np.full(rows, -1, "i"),
    ),
    sharding.split(mesh),
  )
  step, start = _make_search_step(mesh), 0
  for block in blocks:
    # Without waiting the loop would run ahead and fill the memory with blocks
    # and results.
    jax.block_until_ready(best)
    best = step(best, queries, itself, block, np.int32(start), np.int32(size))
    start += len(block)
  cosines, numbers = (np.asarray(x)[:num_queries] for x in best)
  distances = 1 - cosines
  # In float32 such a distance is rounding error.
  return np.where(distances < 1e-6, 0, distances), numbers
