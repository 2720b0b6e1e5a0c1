"""Tests of neighbours.py."""

import numpy as np
import pytest

from bit_jax.evaluate import neighbours


@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize(("count", "found"), [(1, 1), (5, 5), (99, 53)])
def test_search_equals_brute_force(mesh, within, count, found):
  rng = np.random.default_rng(1)
  index = rng.random((53, 19))
  queries = index if within else rng.random((37, 19))
  queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
  index = index / np.linalg.norm(index, axis=1, keepdims=True)
  wanted = 1 - queries @ index.T
  if within:
    np.fill_diagonal(wanted, np.inf)
    found = min(found, 52)
  order = np.argsort(wanted, axis=1)[:, :found]

  # The padding of the last block would be the nearest if it were not ignored.
  blocks = np.concatenate([index, queries[:11]]).astype(np.float32)
  distances, numbers = neighbours.search(
    queries.astype(np.float32),
    np.split(blocks, 4),
    53,
    count,
    mesh,
    within=within,
  )
  np.testing.assert_array_equal(numbers, order)
  wanted = np.take_along_axis(wanted, order, axis=1)
  np.testing.assert_allclose(distances, wanted, atol=1e-6)


def test_equal_features_are_at_distance_0_the_first_one_first(one_device):
  x = np.random.default_rng(2).random((1, 700), np.float32)
  x /= np.linalg.norm(x)
  distances, numbers = neighbours.search(
    x, [x.repeat(2, 0), x.repeat(2, 0)], 4, 3, one_device
  )
  assert distances.tolist() == [[0, 0, 0]]
  assert numbers.tolist() == [[0, 1, 2]]


def test_search_within_takes_the_blocks_of_the_queries(one_device):
  rng = np.random.default_rng(3)
  x = rng.random((300, 5), np.float32)
  x[299] = x[7]
  x = np.asarray(neighbours.normalize(x))
  blocks = list(neighbours.blocks_of(x))
  assert len({block.shape for block in blocks}) == 1
  np.testing.assert_array_equal(np.concatenate(blocks)[:300], x)
  distances, numbers = neighbours.search(
    x, blocks, 300, 1, one_device, within=True
  )
  assert numbers[[7, 299]].tolist() == [[299], [7]]
  assert distances[[7, 299]].tolist() == [[0], [0]]


def test_normalized_features_have_length_1_also_without_any():
  x = np.array([[3, 4], [0, 0], [0, 0]], np.float16)
  unit = np.asarray(neighbours.normalize(x))
  assert unit.dtype == np.float32
  np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-6)
  np.testing.assert_allclose(unit[0], [0.6, 0.8], atol=1e-6)
  np.testing.assert_array_equal(unit[1], unit[2])
