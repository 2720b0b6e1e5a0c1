"""The train state and the jitted functions that make and update it."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax
from flax import struct
from jax.sharding import Mesh

from bit_jax import models
from bit_jax.data import pipeline
from bit_jax.models import init
from bit_jax.objectives import losses
from bit_jax.parallel import sharding
from bit_jax.recipe.load import Config
from bit_jax.run import optim
from bit_jax.storage import digest


class TrainState(struct.PyTreeNode):
  """All that changes from step to step, and the key that does not.

  Attributes:
    step: int32 scalar, finished updates.
    params: nested dict of float32 arrays.
    batch_stats: running statistics of BatchNorm; {} without it.
    opt_state: of Optax.
    rng: uint32[2], key data; step t draws from it folded with t.
  """

  step: Any
  params: Any
  batch_stats: Any
  opt_state: Any
  rng: Any

  @property
  def variables(self) -> dict[str, Any]:
    """What the model is applied to."""
    return {"params": self.params, "batch_stats": self.batch_stats}


def _step_config(config) -> Config:
  """Returns the part of a resolved config that the update step depends on."""
  keys = ("model", "loss", "optim", "schedule", "hyperrule", "resolved")
  keys += ("parallel",)
  part = {k: v for k, v in config.to_dict().items() if k in keys}
  # What changes no number of the step: runs that differ in it alone share one
  # compiled step.
  for key in (
    *("train_examples", "data_fingerprint", "total_steps"),
    *("resize_px", "flip"),
  ):
    del part["resolved"][key]
  return ml_collections.FrozenConfigDict(part)


def make_model(config: Config) -> Any:
  """Returns the network of a resolved config."""
  return models.create(num_classes=config.resolved.num_classes, **config.model)


def _schedule(config) -> Callable[[Any], jax.Array]:
  r = config.resolved
  return optim.step_schedule(
    r.peak_lr,
    r.warmup_steps,
    r.decay_steps,
    config.schedule.decay_factor,
    one_late=config.hyperrule == "code",
  )


def _tx(config) -> optax.GradientTransformation:
  return optim.make_tx(
    _schedule(config),
    momentum=config.optim.momentum,
    momentum_dtype=config.optim.momentum_dtype,
    weight_decay=config.optim.weight_decay,
    decoupled=config.optim.decoupled,
    frozen=config.optim.freeze,
  )


def make_init(config: Config, mesh: Mesh) -> Callable[[Any], TrainState]:
  """Builds the jitted function from a seed to a random state on the mesh."""
  config = _step_config(config)
  return jax.jit(_init_fn(config), out_shardings=_sharding(config, mesh))


def make_abstract_state(config: Config, mesh: Mesh) -> TrainState:
  """Returns the state as jax.ShapeDtypeStruct with shardings; no arrays."""
  config = _step_config(config)
  return jax.tree.map(
    lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
    jax.eval_shape(_init_fn(config), 0),
    _sharding(config, mesh),
  )


def make_abstract_batch(config: Config, mesh: Mesh) -> pipeline.Batch:
  """Returns a batch of class ids as jax.ShapeDtypeStruct with shardings."""
  rows, px = config.input.batch_size, config.resolved.crop_px
  shapes = {
    "images": ((rows, px, px, 3), jnp.uint8),
    "labels": ((rows,), jnp.int32),
    "index": ((rows,), jnp.int32),
  }
  return {
    key: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding.split(mesh))
    for key, (shape, dtype) in shapes.items()
  }


@functools.lru_cache(maxsize=8)
def _sharding(config, mesh):
  return sharding.state_sharding(
    jax.eval_shape(_init_fn(config), 0), mesh, shard=config.parallel.shard_state
  )


@functools.lru_cache(maxsize=8)
def _init_fn(config):
  model, tx = make_model(config), _tx(config)

  def init_state(seed):
    rng = jax.random.key(seed)
    variables = init.init_variables(model, jax.random.fold_in(rng, 0))
    params = variables["params"]
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      batch_stats=variables.get("batch_stats", {}),
      opt_state=tx.init(params),
      rng=jax.random.key_data(jax.random.fold_in(rng, 1)),
    )

  return init_state


def make_update_step(
  config: Config, mesh: Mesh
) -> Callable[[TrainState, pipeline.Batch], tuple[TrainState, Any]]:
  """Builds the jitted function (state, batch) -> (state, metrics).

  Args:
    config: a resolved one. Configs with the same model, loss, optimiser and
      numbers give the same function, so that runs in one process share the
      compiled step.
    mesh: batches are split over it.

  Returns:
    A function that takes a state, whose memory it reuses, and a batch of
    `pipeline.train_batches`, and returns the next state and float32 scalars:
    `loss` (mean over the batch), `grad_norm`, `update_norm` (of what was added
    to the parameters), `learning_rate`, and `example_hash` (uint32) of the
    batch's examples and their order.
  """
  return _make_update_step(_step_config(config), mesh)


@functools.lru_cache(maxsize=8)
def _make_update_step(config, mesh):
  model, tx, schedule = make_model(config), _tx(config), _schedule(config)
  folded_model = model.clone(weight_standardization=False)
  loss_fn = losses.LOSSES[config.loss]

  accum_steps = config.optim.accum_steps

  def fold(params):
    return models.fold(model, params)[1]

  def mean_loss(params, batch_stats, images, targets):
    params = optim.freeze(params, config.optim.freeze)
    logits, updated = folded_model.apply(
      {"params": params, "batch_stats": batch_stats},
      images,
      train=True,
      mutable=["batch_stats"],
    )
    return loss_fn(logits, targets).mean(), updated.get("batch_stats", {})

  def whole_loss(params, *args):
    return mean_loss(fold(params), *args)

  grad_fn = jax.value_and_grad(mean_loss, has_aux=True)
  whole_grad_fn = jax.value_and_grad(whole_loss, has_aux=True)

  def accumulate(params, images, targets):
    """Returns the mean of loss and gradients over parts of the batch."""

    def parts(x):
      # Part j has the rows j, j + accum_steps, ...: every device keeps its own.
      x = x.reshape(-1, accum_steps, *x.shape[1:])
      return jax.lax.with_sharding_constraint(
        jnp.moveaxis(x, 1, 0), sharding.split_rows(mesh)
      )

    def add(total, part):
      (loss, _), grads = grad_fn(params, {}, *part)
      return jax.tree.map(jnp.add, total, (loss, grads)), None

    zeros = jax.tree.map(jnp.zeros_like, (jnp.zeros(()), params))
    total, _ = jax.lax.scan(add, zeros, (parts(images), parts(targets)))
    return jax.tree.map(lambda x: x / accum_steps, total)

  def update_step(state, batch):
    rng = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
    images = models.scale_images(batch["images"])
    targets = losses.dense_targets(batch["labels"], model.num_classes)
    images, targets = losses.mixup(
      rng, images, targets, config.resolved.mixup_alpha
    )
    params, batch_stats = state.params, state.batch_stats
    if config.parallel.shard_state:
      params = sharding.gathered(params, mesh)
    if accum_steps > 1:
      # Weights are standardized once a step, not once for each part.
      folded, pull_back = jax.vjp(fold, params)
      loss, grads = accumulate(folded, images, targets)
      (grads,) = pull_back(grads)
    else:
      # In one piece: in two, XLA's order of the step takes more temporaries.
      (loss, batch_stats), grads = whole_grad_fn(
        params, batch_stats, images, targets
      )
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = {
      "loss": loss,
      "grad_norm": optax.tree.norm(grads),
      # Not of `updates`: XLA then takes two more passes over the parameters.
      "update_norm": optax.tree.norm(
        jax.tree.map(jnp.subtract, params, state.params)
      ),
      "learning_rate": schedule(state.step),
      "example_hash": digest.weighted_sum(batch["index"].astype(jnp.uint32)),
    }
    state = state.replace(
      step=state.step + 1,
      params=params,
      batch_stats=batch_stats,
      opt_state=opt_state,
    )
    return state, metrics

  return jax.jit(
    update_step,
    donate_argnums=0,
    out_shardings=(_sharding(config, mesh), sharding.replicated(mesh)),
  )
