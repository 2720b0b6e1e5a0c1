import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bit_jax.objectives import losses


def test_dense_targets():
  one_hot = losses.dense_targets(jnp.array([2, 0]), 3)
  np.testing.assert_array_equal(one_hot, [[0, 0, 1], [1, 0, 0]])
  several = np.array([[1, 0, 1]], np.uint8)
  np.testing.assert_array_equal(losses.dense_targets(several, 3), several)
  assert one_hot.dtype == losses.dense_targets(several, 3).dtype == jnp.float32


def test_softmax_and_sigmoid_against_float64():
  rng = np.random.default_rng(0)
  logits, targets = rng.normal(0, 5, (6, 9)), rng.random((6, 9))
  log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  np.testing.assert_allclose(
    losses.softmax(jnp.float32(logits), jnp.float32(targets)),
    -(targets * log_p).sum(-1),
    rtol=1e-5,
  )
  p = 1 / (1 + np.exp(-logits))
  np.testing.assert_allclose(
    losses.sigmoid(jnp.float32(logits), jnp.float32(targets)),
    -(targets * np.log(p) + (1 - targets) * np.log1p(-p)).sum(-1),
    rtol=1e-5,
  )


def test_mixup_pairs_each_row_with_the_reversed_batch():
  images = jnp.arange(4.0).reshape(4, 1, 1, 1)
  targets = jnp.eye(4)
  mixed, mixed_targets = losses.mixup(jax.random.key(1), images, targets, 0.5)
  # Row 0 is weight * 0 + (1 - weight) * 3.
  weight = 1 - mixed[0, 0, 0, 0] / 3
  assert 0 < weight < 1
  np.testing.assert_allclose(
    mixed[:, 0, 0, 0],
    weight * np.arange(4) + (1 - weight) * np.arange(4)[::-1],
    rtol=1e-6,
  )
  expected = weight * np.eye(4) + (1 - weight) * np.eye(4)[::-1]
  np.testing.assert_allclose(mixed_targets, expected, atol=1e-6)
  again, _ = losses.mixup(jax.random.key(1), images, targets, 0.5)
  other, _ = losses.mixup(jax.random.key(2), images, targets, 0.5)
  np.testing.assert_array_equal(mixed, again)
  assert (np.asarray(mixed) != other).any()


@pytest.mark.parametrize(("alpha", "std"), [(0.1, 0.456), (1.0, 0.289)])
def test_mixup_weight_is_beta_distributed(alpha, std):
  images, targets = jnp.array([1.0, 0.0])[:, None, None, None], jnp.eye(2)
  keys = jax.random.split(jax.random.key(0), 4000)
  weights = jax.vmap(
    lambda k: losses.mixup(k, images, targets, alpha)[0][0, 0, 0, 0]
  )(keys)
  np.testing.assert_allclose(weights.mean(), 0.5, atol=0.03)
  np.testing.assert_allclose(weights.std(), std, atol=0.02)


def test_alpha_zero_changes_nothing():
  images, targets = jnp.ones((2, 1, 1, 3)), jnp.eye(2)
  mixed = losses.mixup(jax.random.key(0), images, targets, 0.0)
  assert mixed == (images, targets)
