import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bit_jax.models import layers


def test_standardize_uses_population_variance_and_eps_inside_the_root():
  kernel = np.random.default_rng(0).normal(3, 1e-5, (3, 3, 2, 4))
  mean, var = kernel.mean((0, 1, 2)), kernel.var((0, 1, 2))
  with jax.enable_x64(True):
    got = layers.standardize(jnp.asarray(kernel))
  np.testing.assert_allclose(got, (kernel - mean) / np.sqrt(var + 1e-10))


def test_standardize_in_float32_of_kernels_far_from_zero():
  kernel = np.random.default_rng(0).normal(300, 1, (3, 3, 8, 4))
  kernel = kernel.astype(np.float32)
  exact = np.float64(kernel)
  exact = (exact - exact.mean((0, 1, 2))) / exact.std((0, 1, 2))
  np.testing.assert_allclose(layers.standardize(kernel), exact, atol=2e-6)


def test_bf16_keeps_statistics_in_float32():
  # 16384 values near 300: a bf16 sum could not tell them from their mean.
  x = np.random.default_rng(0).normal(300, 10, (1, 32, 32, 16))
  x = jnp.asarray(x, jnp.bfloat16)
  norm = layers.GroupNorm(groups=1)
  params = norm.init(jax.random.key(0), x)
  got = norm.apply(params, x)
  want = norm.apply(params, x.astype(jnp.float32))
  assert got.dtype == jnp.bfloat16
  np.testing.assert_allclose(
    np.asarray(got, np.float32), want, atol=0.02, rtol=0.01
  )


def batch_norm_reference(x, group):
  """Normalizes each `group` consecutive examples by their statistics."""
  parts = np.split(x, len(x) // group)
  return np.concatenate(
    [(p - p.mean((0, 1, 2))) / np.sqrt(p.var((0, 1, 2)) + 1e-5) for p in parts]
  )


@pytest.mark.parametrize("group", [0, 8, 2])
def test_batch_norm_trains_with_the_statistics_of_its_group(group):
  x = np.random.default_rng(0).normal(3, 2, (8, 4, 5, 6))
  norm = layers.BatchNorm(group)
  x32 = jnp.asarray(x, jnp.float32)
  variables = norm.init(jax.random.key(0), x32)
  got, updated = norm.apply(variables, x32, train=True, mutable=["batch_stats"])
  np.testing.assert_allclose(
    got, batch_norm_reference(x, group or 8), atol=1e-5
  )
  stats = updated["batch_stats"]
  np.testing.assert_allclose(stats["mean"], 0.1 * x.mean((0, 1, 2)), rtol=1e-5)
  parts = np.split(x, 8 // (group or 8))
  spread = np.mean([p.var((0, 1, 2)) for p in parts], 0)
  np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * spread, rtol=1e-5)


def test_batch_norm_evaluates_with_the_running_statistics():
  x = jnp.asarray(np.random.default_rng(0).normal(3, 2, (2, 4, 5, 6)))
  norm = layers.BatchNorm()
  variables = norm.init(jax.random.key(0), x)
  stats = {"mean": jnp.full(6, 3.0), "var": jnp.full(6, 4.0)}
  got = norm.apply({**variables, "batch_stats": stats}, x)
  np.testing.assert_allclose(got, (x - 3) / np.sqrt(4 + 1e-5), atol=1e-5)


def test_plain_convolution():
  x = jnp.ones((1, 3, 3, 2))
  conv = layers.StdConv(4, standardized=False)
  params = conv.init(jax.random.key(0), x)
  kernel = params["params"]["kernel"][0, 0]
  np.testing.assert_allclose(conv.apply(params, x)[0, 0, 0], kernel.sum(0))
