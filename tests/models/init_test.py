import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bit_jax import models
from bit_jax.models import init, paths


def test_init_has_the_distribution_of_flax():
  model = models.create("R14x0.5", num_classes=3, head_bias=-2.0)
  rng = jax.random.key(0)
  ours = paths.flatten(init.init_variables(model, rng)["params"])
  images = np.zeros((1, 32, 32, 3), np.float32)
  flax = paths.flatten(jax.jit(model.init)(rng, images)["params"])
  assert {k: v.shape for k, v in ours.items()} == {
    k: v.shape for k, v in flax.items()
  }
  for path, value in flax.items():
    if "conv" not in path:
      np.testing.assert_array_equal(ours[path], value)
    elif value.size > 10_000:
      for moment in (np.std, np.max, np.min):
        np.testing.assert_allclose(moment(ours[path]), moment(value), rtol=0.05)
      assert abs(ours[path].mean()) < 4 * value.std() / np.sqrt(value.size)


def test_running_statistics_start_as_those_of_a_normal_distribution():
  model = models.create("R14x0.5", num_classes=3, norm="bn")
  variables = init.init_variables(model, jax.random.key(0))
  stats = paths.flatten(variables["batch_stats"])
  assert not stats["block1/unit01/bn1/mean"].any()
  assert (stats["norm-pre-head/var"] == 1).all()
  gn_model = models.create("R14x0.5", num_classes=3)
  assert init.init_variables(gn_model, jax.random.key(0)).keys() == {"params"}


class WithPixelHead(nn.Module):
  """A network of a user's own: BiT and a convolutional head beside it."""

  encoder: nn.Module

  def setup(self):
    nn.share_scope(self, self.encoder)

  @nn.compact
  def __call__(self, images, *, train=False):
    logits, features = self.encoder(images, train=train, return_features=True)
    pixels = nn.Conv(
      5,
      (3, 3),
      kernel_init=nn.initializers.normal(0.01),
      bias_init=nn.initializers.constant(-4.6),
      name="pixel_head",
    )(features["block4"].astype(jnp.float32))
    return logits, pixels


def test_a_convolutional_head_has_its_own_initial_values():
  encoder = models.create("R14x0.25", num_classes=3)
  network = WithPixelHead(encoder)
  params = init.init_variables(network, jax.random.key(0))["params"]
  head = params.pop("pixel_head")
  assert (head["bias"] == jnp.float32(-4.6)).all()
  np.testing.assert_allclose(head["kernel"].std(), 0.01, rtol=0.05)
  # The encoder's are those it has alone, at the same paths.
  jax.tree.map(
    np.testing.assert_array_equal,
    params,
    init.init_variables(encoder, jax.random.key(0))["params"],
  )


def test_folding_leaves_a_convolutional_head_alone():
  network = WithPixelHead(models.create("R14x0.25", num_classes=3))
  params = init.init_variables(network, jax.random.key(0))["params"]
  plain, folded = models.fold(network, params)
  assert not plain.encoder.weight_standardization
  assert folded["pixel_head"]["kernel"] is params["pixel_head"]["kernel"]
  kernel = folded["block1"]["unit01"]["conv1"]["kernel"]
  np.testing.assert_allclose(kernel.std((0, 1, 2)), 1, rtol=1e-4)
  images = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype("f")
  got = jax.jit(plain.apply)({"params": folded}, images)
  want = jax.jit(network.apply)({"params": params}, images)
  for a, b in zip(got, want, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
