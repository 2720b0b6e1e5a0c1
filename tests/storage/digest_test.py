import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bit_jax.parallel import sharding
from bit_jax.storage import digest


def on(mesh, tree, placed=sharding.replicated):
  return jax.device_put(tree, placed(mesh))


@pytest.mark.parametrize(
  "dtype", ["float32", "bfloat16", "int32", "uint32", "float16"]
)
def test_every_bit_and_place_counts(one_device, dtype):
  values = np.arange(24).reshape(2, 3, 4).astype(jnp.dtype(dtype))
  seen = set()

  def add(x):
    (value,) = digest.compute(on(one_device, {"x": x})).values()
    seen.add(value)

  add(values)
  for bit in range(values.itemsize * 8):
    flipped = values.copy()
    bits = flipped.view(f"uint{values.itemsize * 8}")
    bits[1, 2, 3] ^= 1 << bit
    add(flipped)
  swapped = values.copy()
  swapped[0, 0, 0], swapped[1, 0, 0] = values[1, 0, 0], values[0, 0, 0]
  add(swapped)
  assert len(seen) == 2 + values.itemsize * 8


def test_it_is_the_sum_it_says():
  values = np.array([3, 5, 2**32 - 1], np.uint32)
  step = 2 * 2654435761
  expected = sum(int(v) * (i * step + 1) for i, v in enumerate(values)) % 2**32
  assert int(digest.weighted_sum(jnp.asarray(values))) == expected


def test_neither_devices_nor_sharding_change_it(mesh, one_device):
  tree = {"a": {"b": np.random.default_rng(0).normal(size=(8, 12))}, "c": [1.0]}
  tree = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)
  alone = digest.compute(on(one_device, tree))
  assert list(alone) == ["a/b", "c/0"]
  assert digest.compute(on(mesh, tree)) == alone
  rows = on(mesh, {"a": tree["a"]}, sharding.split)
  assert digest.compute(rows) == {"a/b": alone["a/b"]}
