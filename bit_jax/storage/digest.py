"""Digests of arrays: one number that changes when any bit of an array does.

They are computed on the devices that hold the array, with integers, so that the
result depends neither on its sharding nor on the device. Checkpoints need them
because Orbax compares no checksum on restoring: flipped bits would go
unnoticed.
"""

import concurrent.futures
from typing import Any

import jax
import jax.numpy as jnp

_BITS = {2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}
# Twice an odd number, so that the factors 1 + place * _STEP are odd and differ.
_STEP = 2 * 2654435761 % 2**32


def weighted_sum(values: jax.Array) -> jax.Array:
  """Returns the sum of unsigned integers times odd factors, modulo 2**32.

  Changing one value always changes the result; changing or swapping several
  does so nearly always.

  Args:
    values: uint32 array of any shape.

  Returns:
    uint32 scalar.
  """
  place, stride = jnp.zeros((), jnp.uint32), 1
  # Places are counted axis by axis, because flattening an array that is split
  # over devices would move it.
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
    tree: Tree of jax.Array, or of jax.ShapeDtypeStruct with shardings.

  Returns:
    A future of the compiled function, which takes the list of the tree's
    leaves.
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
  """Returns the paths of a tree's arrays, e.g. `params/head/bias`."""
  return [
    jax.tree_util.keystr(path, simple=True, separator="/")
    for path, _ in jax.tree.leaves_with_path(tree)
  ]


def compute(tree: Any) -> dict[str, int]:
  """Returns {path: digest in [0, 2**32)} of a tree of jax.Array."""
  executable = compile_ahead(tree).result()
  values = jax.device_get(executable(jax.tree.leaves(tree)))
  return dict(zip(names(tree), map(int, values), strict=True))
