"""The generic update step against a plain one for classification."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bit_jax import models
from bit_jax.models import paths
from bit_jax.objectives import losses
from bit_jax.objectives.classify import Classify
from bit_jax.parallel import sharding
from bit_jax.run import optim
from bit_jax.run.step import make_init, make_update_step
from tests import fakes
from tests.fakes import a_batch, make_config, resolved


def plain_step(config, network, tx):
  """The textbook's step for classification, on the same operations."""
  parts = config.optim.accum_steps or 1

  def loss_fn(folded, images, targets):
    plain = network.clone(weight_standardization=False)
    logits = plain.apply({"params": folded}, images, train=True)
    return losses.softmax(logits, targets).mean()

  @jax.jit
  def step(params, opt_state, key, batch):
    images = models.scale_images(batch["images"])
    targets = jax.nn.one_hot(batch["labels"], 4)
    images, targets = losses.mixup(
      key, images, targets, config.resolved.mixup_alpha
    )
    folded, pull_back = jax.vjp(lambda p: models.fold(network, p)[1], params)
    total = jax.tree.map(jnp.zeros_like, (jnp.zeros(()), folded))
    for i in range(parts):
      part = jax.value_and_grad(loss_fn)(
        folded, images[i::parts], targets[i::parts]
      )
      total = jax.tree.map(jnp.add, total, part)
    loss, grads = jax.tree.map(lambda x: x / parts, total)
    updates, opt_state = tx.update(pull_back(grads)[0], opt_state, params)
    return optax.apply_updates(params, updates), opt_state, loss

  return step


@pytest.mark.parametrize(
  ("num_devices", "overrides"),
  [(1, {}), (4, {"optim.accum_steps": 2, "parallel.shard_state": True})],
  ids=["whole", "parts and a split state"],
)
def test_the_step_is_that_of_plain_classification(num_devices, overrides):
  overrides = {"mixup_alpha": 0.3, "optim.weight_decay": 1e-4, **overrides}
  mesh = sharding.make_mesh(jax.devices()[:num_devices])
  config = resolved(make_config(**overrides))
  spec = fakes.spec(config, mesh)
  state = make_init(spec)(0)
  params = jax.device_get(state.params)
  tx = optim.Optimizer.of(config).tx()
  step = plain_step(config, spec.objective.network, tx)
  opt_state = tx.init(params)
  base = jax.random.wrap_key_data(jax.device_get(state.rng))
  for seed in range(3):
    key = jax.random.fold_in(base, seed)
    batch = a_batch(mesh, seed)
    params, opt_state, loss = step(
      params, opt_state, key, jax.device_get(batch)
    )
    state, metrics = make_update_step(spec)(state, batch)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
  wanted = paths.flatten(jax.device_get(params))
  for path, value in paths.flatten(state.params).items():
    np.testing.assert_allclose(
      sharding.to_host(value, mesh),
      wanted[path],
      rtol=1e-5,
      atol=1e-6,
      err_msg=path,
    )


@pytest.mark.parametrize(
  ("mixup_alpha", "targets", "right"),
  [
    (0.0, [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 0]], 0.5),
    # Of several classes, one of them; without any class, none is right.
    (0.0, [[1, 0, 1], [0, 1, 1], [0, 1, 1], [0, 0, 0]], 0.5),
    # Mixed: the class that weighs most, both if they weigh the same.
    (0.1, [[0.9, 0.1, 0], [0.4, 0.6, 0], [0.5, 0, 0.5], [0, 1, 0]], 0.75),
  ],
)
def test_the_training_accuracy(mixup_alpha, targets, right):
  logits = jnp.array([[2.0, 1, 0], [0, 1, 3], [5, 0, 0], [0, 4, 0]])
  objective = Classify(None, mixup_alpha=mixup_alpha)
  name = "mixed_accuracy" if mixup_alpha else "accuracy"
  scalars = objective.train_scalars(logits, jnp.array(targets, jnp.float32))
  assert scalars == {name: right}
  grads = jax.grad(
    lambda x: objective.train_scalars(x, jnp.array(targets))[name]
  )(logits)
  assert not grads.any()


def test_a_network_that_has_not_fitted_says_so():
  plain, mixed = Classify(None), Classify(None, mixup_alpha=0.1)
  assert plain.shortcoming({"accuracy": 0.614, "loss": 1.0}) == (
    "the network has not yet fitted its training images (training accuracy 61 "
    "%)"
  )
  assert "(training accuracy, of mixed images, 61 %)" in mixed.shortcoming(
    {"mixed_accuracy": 0.614}
  )
  assert plain.shortcoming({"accuracy": 0.91}) == ""
  assert plain.shortcoming({}) == ""


def test_top_5_of_more_than_five_classes_only():
  labels = jnp.arange(6)
  batch = {"labels": labels, "mask": jnp.ones(6)}
  for num_classes, has in ((5, False), (6, True)):
    scores = Classify(None).score_logits(jnp.zeros((6, num_classes)), batch)
    assert ("correct_top5" in scores.sums) == has
    sums = {"examples": 6.0, **scores.sums}
    assert ("top5_accuracy" in Classify(None).summarize(sums, {})) == has
