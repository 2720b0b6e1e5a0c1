import jax
import numpy as np

from bit_jax import models
from bit_jax.models import init, paths


def test_init_params_has_the_distribution_of_flax():
  model = models.create("R14x0.5", num_classes=3, head_bias=-2.0)
  rng = jax.random.key(0)
  ours = paths.flatten(init.init_params(model, rng, 32))
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
  stats = paths.flatten(init.init_batch_stats(model, 32))
  assert not stats["block1/unit01/bn1/mean"].any()
  assert (stats["norm-pre-head/var"] == 1).all()
  gn_model = models.create("R14x0.5", num_classes=3)
  assert init.init_batch_stats(gn_model, 32) == {}
