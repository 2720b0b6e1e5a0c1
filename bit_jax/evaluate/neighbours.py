"""The nearest examples of one set to each of another's, exactly.

The distance of two examples is 1 - cosine of their features: 0 to 1, as the
features before the head are not negative. It depends on nothing but the two.
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
  """Scales features [B, D], at least 0, to length 1, as float32."""
  # Blank images may have no feature at all; so they are near each other.
  features = features.astype(jnp.float32) + 1e-6
  return features / jnp.linalg.norm(features, axis=1, keepdims=True)


def blocks_of(features: np.ndarray) -> Iterator[np.ndarray]:
  """Cuts [N, D] into the blocks that `search` takes."""
  shape = _BLOCK, features.shape[1]
  for start in range(0, len(features), _BLOCK):
    yield np.resize(features[start : start + _BLOCK], shape)


@functools.lru_cache(maxsize=8)
def _make_search_step(mesh: Mesh) -> Callable[..., tuple[jax.Array, jax.Array]]:
  """Builds the function that takes one more block of the index into account.

  Its arguments: (cosines, numbers) [Q, k] of the nearest so far, features
  [Q, D] of the query, [Q] the number that is no neighbour, features [B, D] of
  the block, number of its first example, and of the first that is not there.
  """

  def step(best, queries, itself, block, start, stop):
    cosines = jnp.matmul(queries, block.T, precision="highest")
    numbers = jnp.broadcast_to(start + jnp.arange(len(block)), cosines.shape)
    usable = (numbers < stop) & (numbers != itself[:, None])
    cosines = jnp.where(usable, cosines, -jnp.inf)
    cosines = jnp.concatenate([best[0], cosines], axis=1)
    numbers = jnp.concatenate([best[1], numbers], axis=1)
    # Of equal ones, the first.
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
    queries: float32[Q, D] of length 1.
    blocks: float32[B, D] of length 1, the index from its first example on, all
      of one size; what fills the last one up is not looked at.
    size: examples in the index.
    neighbours: how many to find; fewer are found where there are fewer.
    mesh: what the queries are split over.
    within: the query is the index, and no example is its own neighbour.

  Returns:
    (float32[Q, k] distances, rising; int32[Q, k] numbers). Of equally near
    examples, the first comes first.
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
    # Else the loop runs ahead, with a block and a result in memory each time.
    jax.block_until_ready(best)
    best = step(best, queries, itself, block, np.int32(start), np.int32(size))
    start += len(block)
  cosines, numbers = (np.asarray(x)[:num_queries] for x in best)
  distances = 1 - cosines
  # Float32 does not tell these from 0.
  return np.where(distances < 1e-6, 0, distances), numbers
