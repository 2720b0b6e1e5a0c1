import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bit_jax.errors import InputError
from bit_jax.run import optim


def params():
  return {
    "block1": {
      "conv1": {"kernel": jnp.array([1.0, -2.0])},
      "gn1": {"scale": jnp.array([1.0]), "bias": jnp.array([0.5])},
    },
    "head": {"kernel": jnp.array([3.0]), "bias": jnp.array([4.0])},
  }


@pytest.mark.parametrize(
  ("finished", "expected"),
  [(0, 0.1), (4, 0.5), (9, 1.0), (19, 1.0), (20, 0.1), (29, 0.1), (30, 0.01)],
)
def test_schedule_starts_above_zero_and_decays_at_the_stated_step(
  finished, expected
):
  schedule = optim.step_schedule(1.0, 10, (20, 30))
  np.testing.assert_allclose(schedule(finished), expected, rtol=1e-6)
  late = optim.step_schedule(1.0, 10, (20, 30), one_late=True)
  np.testing.assert_allclose(late(finished + 1), expected, rtol=1e-6)
  assert late(0) == 0


def test_schedule_without_warmup_and_with_another_factor():
  schedule = optim.step_schedule(2.0, 0, (1,), 0.5)
  assert [float(schedule(i)) for i in range(3)] == [2.0, 1.0, 1.0]


def reference_sgd(kernel, grads, lr, momentum, decay):
  """The textbook's coupled form, in float64."""
  kernel, velocity = np.float64(kernel), 0.0
  for grad in grads:
    velocity = momentum * velocity + grad + decay * kernel
    kernel = kernel - lr * velocity
  return kernel


def test_sgd_with_coupled_weight_decay_on_kernels_only():
  tx = optim.Optimizer(0.1, momentum=0.9, weight_decay=0.01).tx()
  p = params()
  state = tx.init(p)
  for grad in (1.0, -0.5, 2.0):
    grads = jax.tree.map(lambda x, g=grad: jnp.full_like(x, g), p)
    updates, state = tx.update(grads, state, p)
    p = jax.tree.map(jnp.add, p, updates)
  grads = (1.0, -0.5, 2.0)
  np.testing.assert_allclose(
    p["head"]["kernel"], reference_sgd(3.0, grads, 0.1, 0.9, 0.01), rtol=1e-6
  )
  np.testing.assert_allclose(
    p["head"]["bias"], reference_sgd(4.0, grads, 0.1, 0.9, 0.0), rtol=1e-6
  )
  np.testing.assert_allclose(
    p["block1"]["gn1"]["scale"],
    reference_sgd(1.0, grads, 0.1, 0.9, 0.0),
    rtol=1e-6,
  )


def shrunk_by_decay_alone(momentum, steps, decoupled, lr=0.48):
  """Returns the kernel, from 1, after updates without any gradient."""
  tx = optim.Optimizer(
    lr, momentum=momentum, weight_decay=1e-4, decoupled=decoupled
  ).tx()
  p = {"kernel": jnp.ones(())}

  def body(carry, _):
    p, state = carry
    updates, state = tx.update({"kernel": jnp.zeros(())}, state, p)
    return (jax.tree.map(jnp.add, p, updates), state), p["kernel"]

  _, kernels = jax.lax.scan(body, (p, tx.init(p)), length=steps + 1)
  return kernels[-1].item()


def test_decoupled_decay_is_the_same_without_momentum():
  coupled = shrunk_by_decay_alone(0.0, 50, decoupled=False)
  assert coupled == pytest.approx((1 - 0.48e-4) ** 50, rel=1e-6)
  assert shrunk_by_decay_alone(0.0, 50, decoupled=True) == coupled


def test_decoupled_decay_agrees_once_the_momentum_has_warmed_up():
  # Upstream at batch 4096: lr 0.48 x 1e-4 / (1 - 0.9) is big_vision's
  # 3e-5 x 4096 / 256.
  first = shrunk_by_decay_alone(0.9, 1, decoupled=True)
  assert first == pytest.approx(1 - 3e-5 * 16, abs=1e-7)
  assert shrunk_by_decay_alone(0.9, 1, False) == pytest.approx(1 - 4.8e-5)
  # The rate of shrinking from update 200 to 1000.
  rates = [
    np.log(shrunk_by_decay_alone(0.9, 200, decoupled))
    - np.log(shrunk_by_decay_alone(0.9, 1000, decoupled))
    for decoupled in (False, True)
  ]
  assert rates[0] == pytest.approx(rates[1], rel=0.01)
  assert rates[1] == pytest.approx(800 * 4.8e-4, rel=1e-3)


def test_decoupled_decay_is_ahead_by_the_momentums_warm_up():
  coupled, decoupled = (
    shrunk_by_decay_alone(0.9, 100, kind) for kind in (False, True)
  )
  # 0.9 / (1 - 0.9) updates' worth.
  behind = np.log(coupled) - np.log(decoupled)
  assert behind == pytest.approx(9 * 4.8e-4, rel=0.05)


def test_frozen_parameters_have_no_gradient_update_or_momentum():
  tx = optim.Optimizer(0.1, momentum=0.9, frozen=("block1/",)).tx()
  p = params()
  grads = jax.grad(lambda p: sum(jnp.sum(x**2) for x in jax.tree.leaves(p)))(p)
  frozen_grads = jax.grad(
    lambda p: sum(
      jnp.sum(x**2) for x in jax.tree.leaves(optim.freeze(p, ("block1/",)))
    )
  )(p)
  assert grads["block1"]["conv1"]["kernel"].any()
  assert not any(x.any() for x in jax.tree.leaves(frozen_grads["block1"]))
  np.testing.assert_array_equal(
    frozen_grads["head"]["kernel"], grads["head"]["kernel"]
  )
  state = tx.init(p)
  updates, _ = tx.update(grads, state, p)
  assert not any(x.any() for x in jax.tree.leaves(updates["block1"]))
  assert updates["head"]["bias"].any()
  momentum = [x for x in jax.tree.leaves(state) if getattr(x, "ndim", 0)]
  assert len(momentum) == 2  # The head's kernel and bias.


def test_freezing_nothing_by_mistake_is_an_error():
  with pytest.raises(InputError, match="'blok1/' matches no parameter"):
    optim.freeze(params(), ("head", "blok1/"))
