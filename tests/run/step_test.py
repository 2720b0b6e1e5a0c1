import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core

from bit_jax import models
from bit_jax.models import paths
from bit_jax.objectives import losses
from bit_jax.parallel import sharding
from bit_jax.run import optim
from bit_jax.run.step import (
  example_hash,
  make_abstract_state,
  make_init,
  make_update_step,
)
from tests import fakes
from tests.fakes import a_batch, make_config, resolved

MODEL = fakes.MODEL


def init_of(config, mesh):
  return make_init(fakes.spec(config, mesh))


def update_of(config, mesh):
  return make_update_step(fakes.spec(config, mesh))


def reference_updates(config, state, batches):
  """The paper's SGD with momentum, step by step in NumPy; losses, params."""
  model = models.create(MODEL, num_classes=4)
  r, decay = config.resolved, config.optim.weight_decay
  late = config.hyperrule == "code"
  schedule = optim.step_schedule(
    r.peak_lr, r.warmup_steps, r.decay_steps, one_late=late
  )

  @jax.jit
  @jax.value_and_grad
  def loss_and_grads(params, images, targets):
    logits = model.apply({"params": params}, images)
    return losses.LOSSES[config.loss](logits, targets).mean()

  flat, velocity, seen = paths.flatten(state.params), {}, []
  for step, batch in enumerate(batches, int(state.step)):
    rng = jax.random.fold_in(jax.random.wrap_key_data(state.rng), step)
    images, targets = losses.mixup(
      rng,
      models.scale_images(np.asarray(batch["images"])),
      jax.nn.one_hot(np.asarray(batch["labels"]), 4),
      r.mixup_alpha,
    )
    loss, grads = loss_and_grads(paths.unflatten(flat), images, targets)
    seen.append(float(loss))
    for path, g in paths.flatten(grads).items():
      if path.endswith("kernel"):
        g = g + decay * flat[path]
      velocity[path] = 0.9 * velocity.get(path, 0.0) + g
      lr = float(schedule(step - int(state.step)))
      flat[path] = flat[path] - lr * velocity[path]
  return seen, flat


@pytest.mark.parametrize(
  "overrides",
  [
    {"mixup_alpha": 0.3, "hyperrule": "code"},
    {"loss": "sigmoid", "optim.weight_decay": 0.01},
  ],
)
def test_update_steps_are_sgd_on_the_mean_loss(mesh, overrides):
  config = resolved(make_config(**overrides))
  state = init_of(config, mesh)(0)
  # From step 5 on: random choices belong to the step.
  state = state.replace(step=state.step + 5)
  batches = [a_batch(mesh, seed) for seed in range(3)]
  want_losses, want = reference_updates(config, jax.device_get(state), batches)
  update, got_losses = update_of(config, mesh), []
  for batch in batches:
    state, metrics = update(state, batch)
    got_losses.append(float(metrics["loss"]))
  np.testing.assert_allclose(got_losses, want_losses, rtol=1e-4)
  assert int(state.step) == 8
  for path, value in paths.flatten(state.params).items():
    np.testing.assert_allclose(value, want[path], atol=2e-5, err_msg=path)


def test_two_seeds_give_two_networks(mesh):
  init = init_of(resolved(make_config()), mesh)
  a, b = (init(seed).params["root_block"]["conv_root"] for seed in (0, 1))
  assert (np.asarray(a["kernel"]) != b["kernel"]).all()


@pytest.mark.parametrize("num_devices", [1, 2])
def test_the_number_of_devices_changes_nothing_but_rounding(mesh, num_devices):
  config = resolved(make_config(mixup_alpha=0.3))
  losses, hashes, state = run_steps(config, mesh, steps=3)
  assert state.params["head"]["bias"].sharding.is_fully_replicated
  few = sharding.make_mesh(jax.devices()[:num_devices])
  got_losses, got_hashes, got = run_steps(config, few, steps=3)
  assert len(got.params["head"]["bias"].devices()) == num_devices
  np.testing.assert_allclose(got_losses, losses, rtol=1e-5)
  assert got_hashes == hashes
  assert_close(jax.device_get(got.params), jax.device_get(state.params))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_pmap_with_pmean_gives_the_same_update(mesh):
  """The textbook's data parallelism; mixup is applied before splitting."""
  config = resolved(make_config(mixup_alpha=0.3))
  state = jax.device_get(init_of(config, mesh)(0))
  batch = a_batch(mesh)
  model = models.create(MODEL, num_classes=4)
  rng = jax.random.fold_in(jax.random.wrap_key_data(state.rng), 0)
  images, targets = losses.mixup(
    rng,
    models.scale_images(np.asarray(batch["images"])),
    jax.nn.one_hot(np.asarray(batch["labels"]), 4),
    0.3,
  )

  def step(params, images, targets):
    def loss_fn(params):
      logits = model.apply({"params": params}, images)
      return losses.softmax(logits, targets).mean()

    loss, grads = jax.value_and_grad(loss_fn)(params)
    grads = jax.lax.pmean(grads, "batch")
    lr = config.resolved.peak_lr / max(1, config.resolved.warmup_steps)
    params = jax.tree.map(lambda p, g: p - lr * g, params, grads)
    return params, jax.lax.pmean(loss, "batch")

  def split(x):
    return x.reshape(4, 2, *x.shape[1:])

  params = jax.tree.map(lambda x: np.stack([x] * 4), state.params)
  params, loss = jax.pmap(step, "batch")(params, split(images), split(targets))
  ours, metrics = update_of(config, mesh)(
    jax.device_put(state, sharding.replicated(mesh)), batch
  )
  np.testing.assert_allclose(metrics["loss"], loss[0], rtol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b[0], atol=2e-6),
    ours.params,
    params,
  )


def test_frozen_parameters_stay(mesh):
  config = resolved(make_config(**{"optim.freeze": ("root_block", "block1/")}))
  state = init_of(config, mesh)(0)
  before = jax.device_get(state.params)
  state, _ = update_of(config, mesh)(state, a_batch(mesh))
  for path, value in paths.flatten(jax.device_get(state.params)).items():
    same = np.array_equal(value, paths.flatten(before)[path])
    # The head's kernel is zero at first, so nothing else moves in one step.
    moved = path.startswith("head/")
    assert same != moved, path


def test_runs_that_differ_in_data_and_seed_share_compiled_steps(mesh):
  a, b = resolved(make_config()), resolved(make_config(seed=3), num_examples=80)
  assert update_of(a, mesh) is make_update_step(fakes.spec(b, mesh))
  c = resolved(make_config(**{"optim.lr": 0.5}))
  assert update_of(a, mesh) is not make_update_step(fakes.spec(c, mesh))


def test_schedule_counts_finished_updates(mesh):
  config = resolved(make_config())
  state = init_of(config, mesh)(0)
  update = update_of(config, mesh)
  rates = []
  for _ in range(3):
    state, metrics = update(state, a_batch(mesh))
    rates.append(float(metrics["learning_rate"]))
  np.testing.assert_allclose(rates, [0.01, 0.001, 0.0001], rtol=1e-6)
  count = [
    int(x)
    for x in jax.tree.leaves(state.opt_state)
    if jnp.issubdtype(x.dtype, jnp.integer)
  ]
  assert count == [3]


def run_steps(config, mesh, steps=2):
  """Returns losses, example hashes and the last state on the host."""
  state = init_of(config, mesh)(0)
  update, seen = update_of(config, mesh), []
  for seed in range(steps):
    state, metrics = update(state, a_batch(mesh, seed))
    seen.append(jax.device_get((metrics["loss"], metrics["example_hash"])))
  losses, hashes = zip(*seen, strict=True)
  return np.array(losses), hashes, state


def assert_close(a, b):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), a, b
  )


def test_accumulating_over_parts_gives_the_whole_batch(mesh):
  config = resolved(make_config(mixup_alpha=0.3))
  losses, hashes, state = run_steps(config, mesh)
  parts = resolved(make_config(mixup_alpha=0.3, **{"optim.accum_steps": 2}))
  got_losses, got_hashes, got = run_steps(parts, mesh)
  np.testing.assert_allclose(got_losses, losses, rtol=1e-5)
  assert got_hashes == hashes
  assert_close(jax.device_get(got.params), jax.device_get(state.params))


def test_a_split_state_gives_the_same_updates(mesh, one_device):
  config = resolved(
    make_config(mixup_alpha=0.3, **{"parallel.shard_state": True})
  )
  losses, hashes, state = run_steps(config, mesh)
  kernel = state.params["block4"]["unit01"]["conv2"]["kernel"]
  assert kernel.shape == (3, 3, 32, 32)
  assert {s.data.shape for s in kernel.addressable_shards} == {(3, 3, 8, 32)}
  for part in (state.params, state.opt_state):
    held = sum(
      x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(part)
    )
    assert held < 0.3 * sum(x.nbytes for x in jax.tree.leaves(part))
  whole = resolved(make_config(mixup_alpha=0.3))
  whole_losses, whole_hashes, want = run_steps(whole, one_device)
  np.testing.assert_allclose(losses, whole_losses, rtol=1e-5)
  assert hashes == whole_hashes
  assert_close(
    sharding.to_host(state.params, mesh), jax.device_get(want.params)
  )


def test_the_abstract_state_is_that_of_the_real_one(mesh):
  for shard in (False, True):
    config = resolved(make_config(**{"parallel.shard_state": shard}))
    state = init_of(config, mesh)(0)
    abstract = make_abstract_state(fakes.spec(config, mesh))
    jax.tree.map(
      lambda x, y: (
        np.testing.assert_equal(x.shape, y.shape),
        np.testing.assert_equal(x.dtype, y.dtype),
        np.testing.assert_equal(
          x.sharding.is_equivalent_to(y.sharding, x.ndim), True
        ),
      ),
      state,
      abstract,
    )


def test_the_example_hash_tells_examples_and_their_order(mesh):
  config = resolved(make_config())
  update = update_of(config, mesh)

  def hash_of(index):
    batch = a_batch(mesh) | sharding.to_global(
      {"index": np.array(index, np.int32)}, mesh
    )
    return int(update(init_of(config, mesh)(0), batch)[1]["example_hash"])

  order = [5, 6, 7, 8, 1, 2, 3, 4]
  assert hash_of(order) == hash_of(order)
  assert hash_of(order) != hash_of(sorted(order))
  assert hash_of(order) != hash_of([5, 6, 7, 9, 1, 2, 3, 4])


def test_the_example_hash_covers_every_stream():
  def hash_of(**streams):
    return int(
      example_hash({k: {"index": jnp.array(v)} for k, v in streams.items()})
    )

  assert hash_of(a=[1, 2], b=[3]) == hash_of(a=[1, 2], b=[3])
  others = [hash_of(a=[1, 2], b=[4]), hash_of(a=[3, 2], b=[1])]
  assert hash_of(a=[1, 2], b=[3]) not in others
  flat = example_hash({"index": jnp.array([1, 2, 3])})
  assert int(flat) == hash_of(a=[1, 2], b=[3])


def eqns(jaxpr):
  """Yields the equations of a jaxpr and of those within."""
  for eqn in jaxpr.eqns:
    yield eqn
    for inner in core.jaxprs_in_params(eqn.params):
      yield from eqns(inner)


def test_weights_are_standardized_once_a_step(mesh):
  config = resolved(make_config(**{"optim.accum_steps": 2}))
  step = update_of(config, mesh)
  jaxpr = step.trace(init_of(config, mesh)(0), a_batch(mesh)).jaxpr
  parts = [e for e in eqns(jaxpr.jaxpr) if e.primitive.name == "scan"]
  assert len(parts) == 1

  def roots(jaxpr, ndim):
    return sum(
      e.primitive.name == "rsqrt" and e.outvars[0].aval.ndim == ndim
      for e in eqns(jaxpr)
    )

  # GroupNorm's statistics have examples and groups, a kernel's only channels.
  body = parts[0].params["jaxpr"].jaxpr
  assert roots(body, 2) == 13
  assert roots(body, 1) == 0
  assert roots(jaxpr.jaxpr, 1) == 17


def test_momentum_in_bf16_takes_half_and_rounds(mesh):
  exact, rounded = (
    run_steps(
      resolved(make_config(**{"optim.momentum_dtype": dtype})), mesh, steps=3
    )
    for dtype in ("float32", "bfloat16")
  )
  sizes = [
    sum(x.nbytes for x in jax.tree.leaves(state.opt_state))
    for _, _, state in (exact, rounded)
  ]
  assert sizes[1] < 0.51 * sizes[0]
  init = jax.device_get(init_of(resolved(make_config()), mesh)(0).params)
  moved, want = (
    np.concatenate(
      [
        (np.asarray(x) - y).ravel()
        for x, y in zip(
          jax.tree.leaves(state.params), jax.tree.leaves(init), strict=True
        )
      ]
    )
    for _, _, state in (rounded, exact)
  )
  error = np.linalg.norm(moved - want) / np.linalg.norm(want)
  assert 0 < error < 0.01


def test_update_norm_is_that_of_what_the_parameters_moved_by(mesh):
  config = resolved(make_config())
  state = init_of(config, mesh)(0)
  before = jax.device_get(state.params)
  state, metrics = update_of(config, mesh)(state, a_batch(mesh))
  moved = jax.tree.map(jnp.subtract, jax.device_get(state.params), before)
  want = np.sqrt(sum(np.square(x).sum() for x in jax.tree.leaves(moved)))
  np.testing.assert_allclose(metrics["update_norm"], want, rtol=1e-5)
  assert want > 0
