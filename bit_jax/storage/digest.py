"""Digests of arrays: one number that changes when any bit of an array does.

Computed where the array is, in integers, so that neither its sharding nor the
device changes the result. Orbax writes no checksum that it would compare, and
restores flipped bits as they are.
"""

import concurrent.futures
from typing import Any

import jax
import jax.numpy as jnp

_BITS = {2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}
# Twice an odd number: each place has an odd factor of its own.
_STEP = 2 * 2654435761 % 2**32


def weighted_sum(values: jax.Array) -> jax.Array:
  """Returns the sum of unsigned integers times odd factors, modulo 2**32.

  Args:
    values: uint32 array of any shape. Changing one of them always changes the
      result; so does, nearly always, changing or swapping several.

  Returns:
    uint32 scalar.
  """
  place, stride = jnp.zeros((), jnp.uint32), 1
  # By axis, not flattened: arrays that are split stay where they are.
  for axis in reversed(range(values.ndim)):
    index = jax.lax.broadcasted_iota(jnp.uint32, values.shape, axis)
    place = place + index * jnp.uint32(stride % 2**32)
    stride *= values.shape[axis]
  factors = place * jnp.uint32(_STEP) + jnp.uint32(1)
  return jnp.sum(values * factors, dtype=jnp.uint32)


def _digest(x: jax.Array) -> jax.Array:
  if jnp.issubdtype(x.dtype, jnp.floating):
    x = jax.lax.bitcast_convert_type(x, _BITS[x.dtype.itemsize])
  return weighted_sum(x.astype(jnp.uint32))


@jax.jit
def _digests(leaves: list[jax.Array]) -> list[jax.Array]:
  return [_digest(x) for x in leaves]


_compiled: dict[Any, concurrent.futures.Future] = {}
_compiler = concurrent.futures.ThreadPoolExecutor(1, "digest")


def compile_ahead(tree: Any) -> concurrent.futures.Future:
  """Starts compiling `compute` for arrays like these, in another thread.

  Args:
    tree: of jax.Array, or of jax.ShapeDtypeStruct with shardings.

  Returns:
    A future of the compiled function, of the tree's leaves.
  """
  leaves = [
    jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
    for x in jax.tree.leaves(tree)
  ]
  key = tuple((x.shape, x.dtype, x.sharding) for x in leaves)
  if key not in _compiled:
    _compiled[key] = _compiler.submit(lambda: _digests.lower(leaves).compile())
  return _compiled[key]


def names(tree: Any) -> list[str]:
  """Returns the path of each array of a tree, e.g. `params/head/bias`."""
  return [
    jax.tree_util.keystr(path, simple=True, separator="/")
    for path, _ in jax.tree.leaves_with_path(tree)
  ]


def compute(tree: Any) -> dict[str, int]:
  """Returns the digest of each jax.Array of a tree, by its path."""
  executable = compile_ahead(tree).result()
  values = jax.device_get(executable(jax.tree.leaves(tree)))
  return dict(zip(names(tree), map(int, values), strict=True))
