import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from bit_jax import models
from bit_jax.models import ops, paths
from bit_jax.weights import param_shapes

KINDS = ("cpu", "tpu", "default")


def with_gradient(function, x, grads):
  """Returns y = function(x), and the gradient of x for a gradient of y."""

  @jax.jit
  def both(x, grads):
    y, pull_back = jax.vjp(function, x)
    return y, *pull_back(grads)

  return both(x, grads)


def float64_group_norm(x, scale, bias, grads):
  """Returns GroupNorm of 32 groups in float64 and its three gradients."""
  shape = (len(x), -1, 32, x.shape[-1] // 32)
  grouped, axes = np.float64(x).reshape(shape), (1, 3)
  centred = grouped - grouped.mean(axes, keepdims=True)
  gain = 1 / np.sqrt(grouped.var(axes, keepdims=True) + 1e-5)
  y, g = centred * gain, (np.float64(grads) * scale).reshape(shape)
  along = (g * y).mean(axes, keepdims=True)
  dx = gain * (g - g.mean(axes, keepdims=True) - y * along)
  y = y.reshape(x.shape)
  gradients = dx.reshape(x.shape), (grads * y).sum((0, 1, 2))
  return y * scale + bias, (*gradients, grads.sum((0, 1, 2)))


@pytest.mark.parametrize(
  ("form", "mean"),
  [
    *((form, mean) for form in KINDS for mean in (0.0, 20.0)),
    # TPUs have no digits left there, as `_one_pass` says.
    *(("cpu", 1e4), ("default", 1e4)),
  ],
  indirect=["form"],
)
def test_group_norm_against_float64(form, mean):
  rng = np.random.default_rng(0)
  x = rng.normal(mean, 2, (2, 6, 7, 64)).astype(np.float32)
  x[..., ::2] += np.float32(3)  # Channels of a group differ as well.
  x[0, 3, 3, 0] += 16  # Nor is the middle typical.
  scale, bias = rng.normal(1, 0.3, (2, 64)).astype(np.float32)
  grads = rng.normal(size=x.shape).astype(np.float32)

  @jax.jit
  def both(x, scale, bias, grads):
    def norm(*args):
      return ops.group_norm(*args, 32, 1e-5)

    y, pull_back = jax.vjp(norm, x, scale, bias)
    return y, pull_back(grads)

  got, got_gradients = both(x, scale, bias, grads)
  want, want_gradients = float64_group_norm(x, scale, bias, grads)
  # The mean is rounded; the variance, on TPUs, by the square of mean / spread.
  tolerance = 1e-5 + 3e-7 * mean + (form == "tpu") * 2e-7 * mean**2
  np.testing.assert_allclose(got, want, atol=tolerance)
  assert len(want_gradients) == 3
  for a, b in zip(got_gradients, want_gradients, strict=True):
    np.testing.assert_allclose(a, b, atol=tolerance * np.abs(b).max())


def test_group_norm_takes_few_passes_over_memory():
  """Counts passes in the compiled step, which is exact and repeatable."""
  shape = (8, 32, 32, 256)
  x = jax.ShapeDtypeStruct(shape, jnp.float32)
  channels = jax.ShapeDtypeStruct(shape[-1:], jnp.float32)

  def step(x, scale, bias, grads):
    def norm(x, scale, bias):
      return jax.nn.relu(ops.group_norm(x, scale, bias, 32, 1e-5))

    y, pull_back = jax.vjp(norm, x, scale, bias)
    return y, pull_back(grads)

  compiled = jax.jit(step).lower(x, channels, channels, x).compile()
  costs = compiled.cost_analysis()
  passes = costs["bytes accessed"] / (4 * np.prod(shape))
  # 21.0 where XLA derives the gradient of our forward pass, 18.0 with Flax's.
  assert passes < 16.1


@pytest.mark.parametrize("form", ["cpu", "default"], indirect=True)
@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("mean", [0.0, 0.1, 300.0])
def test_centre_of_large_kernels_against_float64(form, jit, mean):
  kernel = np.random.default_rng(0).normal(mean, 1, (3, 3, 512, 32))
  kernel = kernel.astype(np.float32)
  exact = np.float64(kernel) - np.float64(kernel).mean((0, 1, 2))
  run = jax.jit(ops.centre) if jit else ops.centre
  centred, variance = run(kernel)
  rounding = np.spacing(np.float32(mean))
  np.testing.assert_allclose(centred, exact, atol=rounding + 1e-6)
  # With one value for a shift, the error was 2e-5 where it was not jitted.
  np.testing.assert_allclose(variance, np.square(exact).mean((0, 1, 2)), 2e-6)


def reference_max_pool(x):
  """3x3 windows, stride 2, of an image with a border of zeros."""
  x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  rows, columns = (range(0, size - 2, 2) for size in x.shape[1:3])
  return np.stack(
    [
      np.stack([x[:, i : i + 3, j : j + 3].max((1, 2)) for j in columns], 1)
      for i in rows
    ],
    1,
  )


@pytest.mark.parametrize("form", ["cpu", "default"], indirect=True)
@pytest.mark.parametrize("shape", [(4, 4), (5, 5), (4, 5), (1, 2)])
def test_max_pool_sees_a_border_of_zeros(form, shape):
  del form
  x = np.random.default_rng(0).normal(-1, 1, (2, *shape, 3))
  x = x.astype(np.float32)
  size = tuple((n + 1) // 2 for n in shape)
  grads = np.random.default_rng(1).normal(size=(2, *size, 3))
  got, gradient = with_gradient(ops.max_pool, x, grads.astype(np.float32))
  np.testing.assert_array_equal(got, reference_max_pool(x))
  # Near x the pool is linear: differences are exact.
  step = np.random.default_rng(2).normal(size=x.shape) * 1e-6
  exact = np.float64(x)
  change = reference_max_pool(exact + step) - reference_max_pool(exact)
  np.testing.assert_allclose(
    (gradient * step).sum(), (grads * change).sum(), rtol=1e-4
  )


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("form", ["cpu", "default"], indirect=True)
def test_convolutions_of_one_pixel(form, stride):
  del form
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 5, 6, 8)).astype(np.float32)
  kernel = rng.normal(size=(1, 1, 8, 4)).astype(np.float32)
  want = np.float64(x)[:, ::stride, ::stride] @ np.float64(kernel)[0, 0]
  got = jax.jit(ops.conv, static_argnums=2)(x, kernel, stride)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_a_network_of_any_batch_can_be_exported():
  model = models.create("R26x0.25", num_classes=3)
  params = paths.unflatten(param_shapes.abstract_params("R26x0.25", 3))
  shape = export.symbolic_shape("b, 64, 64, 3")
  images = jax.ShapeDtypeStruct(shape, jnp.float32)
  exported = export.export(
    jax.jit(lambda p, x: model.apply({"params": p}, x)),
    platforms=["cpu", "cuda", "tpu"],
  )(params, images)
  assert [str(n) for n in exported.out_avals[0].shape] == ["b", "3"]


def test_the_pool_passes_numbers_that_are_none_on():
  x = jnp.zeros((1, 4, 4, 1)).at[0, 1, 1].set(jnp.nan)
  for pool in (ops._pool_slices, ops._pool_windows):
    assert np.isnan(pool(x)).all()


def test_gradients_have_the_types_of_what_they_belong_to():
  x, scale = jnp.ones((1, 2, 2, 4), jnp.bfloat16), jnp.ones(4, jnp.bfloat16)
  y, pull_back = jax.vjp(
    lambda *args: ops.group_norm(*args, 2, 1e-5), x, scale, scale
  )
  assert {g.dtype for g in (y, *pull_back(y))} == {jnp.dtype(jnp.bfloat16)}
