"""The train state and the jitted functions that make and update it.

They depend on a `StepSpec` alone, and know nothing of what a batch means: that
is the objective's.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh

from bit_jax.objectives.objective import Batch, Objective
from bit_jax.parallel import sharding
from bit_jax.run import optim
from bit_jax.storage import digest


class TrainState(struct.PyTreeNode):
  """Everything that changes from step to step, and the key that does not.

  Attributes:
    step: int32 scalar, finished updates.
    params: Nested dict of float32 arrays.
    carried: Dict of what changes without a gradient; {} for most objectives,
      `batch_stats` in it are BatchNorm's running statistics.
    opt_state: State of the Optax transformation.
    rng: uint32[2], key data; step t draws from it folded with t.
  """

  step: Any
  params: Any
  carried: Any
  opt_state: Any
  rng: Any

  @property
  def variables(self) -> dict[str, Any]:
    """The Flax variables of the network."""
    stats = self.carried.get("batch_stats", {})
    return {"params": self.params, "batch_stats": stats}


@dataclasses.dataclass(frozen=True)
class StepSpec:
  """Everything that the jitted functions of a run depend on.

  It is their cache key: runs in one process with equal ones (other data, seed
  or length) share the compiled functions.

  Attributes:
    objective: Says what is learned.
    optimizer: Turns gradients into updates.
    mesh: The devices; batches are split over them.
    accum_steps: Parts of a batch that gradients are summed over.
    shard_state: True to split parameters and momentum over the devices.
  """

  objective: Objective
  optimizer: optim.Optimizer
  mesh: Mesh
  accum_steps: int = 1
  shard_state: bool = False

  @classmethod
  def of(cls, config: Any, mesh: Mesh, objective: Objective) -> "StepSpec":
    """Returns the one of a resolved config."""
    return cls(
      objective,
      optim.Optimizer.of(config),
      mesh,
      max(1, config.resolved.accum_steps),
      config.parallel.shard_state,
    )


def make_init(spec: StepSpec) -> Callable[[Any], TrainState]:
  """Builds the jitted function from a seed to a random state on the mesh."""
  return jax.jit(_init_fn(spec), out_shardings=_sharding(spec))


def make_abstract_state(spec: StepSpec) -> TrainState:
  """Returns the state as jax.ShapeDtypeStruct with shardings; no arrays."""
  return jax.tree.map(
    lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
    jax.eval_shape(_init_fn(spec), 0),
    _sharding(spec),
  )


def needs_whole_batch(spec: StepSpec) -> bool:
  """Returns True if a step in parts would not be the same as in one."""
  return "batch_stats" in make_abstract_state(spec).carried


def make_abstract_batch(spec: StepSpec, rows: int, image_px: int) -> Any:
  """Returns a batch as jax.ShapeDtypeStruct with shardings.

  Args:
    spec: Of the step that takes it.
    rows: Rows of the global batch.
    image_px: Side of the images.
  """
  batch = spec.objective.batch_spec(rows, image_px)
  return sharding.abstract(batch, sharding.split(spec.mesh))


@functools.lru_cache(maxsize=8)
def _sharding(spec):
  return sharding.state_sharding(
    jax.eval_shape(_init_fn(spec), 0), spec.mesh, shard=spec.shard_state
  )


@functools.lru_cache(maxsize=8)
def _init_fn(spec):
  tx = spec.optimizer.tx()

  def init_state(seed):
    rng = jax.random.key(seed)
    params, carried = spec.objective.init(jax.random.fold_in(rng, 0))
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      carried=carried,
      opt_state=tx.init(params),
      rng=jax.random.key_data(jax.random.fold_in(rng, 1)),
    )

  return init_state


def example_hash(batch: Batch) -> jax.Array:
  """Returns a uint32 of a batch's examples and their order."""
  streams = [batch] if "index" in batch else list(batch.values())
  index = jnp.concatenate([stream["index"] for stream in streams])
  return digest.weighted_sum(index.astype(jnp.uint32))


@functools.lru_cache(maxsize=8)
def make_update_step(
  spec: StepSpec,
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
  """Builds the jitted function (state, batch, fixed) -> (state, metrics).

  Args:
    spec: Everything it depends on.

  Returns:
    A function of a state, whose memory it reuses, a batch of
    `pipeline.train_batches`, and the objective's fixed arrays (() for none),
    which it never changes. It returns the next state and float32 scalars:
    `loss` (mean over the batch), `grad_norm`, `update_norm` (of what was added
    to the parameters), `learning_rate`, what the objective logs, and
    `example_hash` (uint32).
  """
  objective, mesh, accum_steps = spec.objective, spec.mesh, spec.accum_steps
  tx, schedule = spec.optimizer.tx(), spec.optimizer.schedule()

  def loss_of_part(folded, carried, batch, fixed, rng):
    folded = optim.freeze(folded, spec.optimizer.frozen)
    return objective.loss(folded, carried, batch, fixed, rng)

  def loss_of_whole(params, *args):
    return loss_of_part(objective.fold(params), *args)

  grad_of_part = jax.value_and_grad(loss_of_part, has_aux=True)
  grad_of_whole = jax.value_and_grad(loss_of_whole, has_aux=True)

  def accumulate(folded, carried, batch, fixed, rng):
    """Returns the means of `grad_of_part` over parts, and the last carried."""

    def parts(x):
      # Part j has the rows j, j + accum_steps, ...: every device keeps its own.
      x = x.reshape(-1, accum_steps, *x.shape[1:])
      return jax.lax.with_sharding_constraint(
        jnp.moveaxis(x, 1, 0), sharding.split_rows(mesh)
      )

    def add(total, part):
      sums, carried, number = total
      key = jax.random.fold_in(rng, number)
      (loss, aux), grads = grad_of_part(folded, carried, part, fixed, key)
      sums = jax.tree.map(jnp.add, sums, ((loss, aux.scalars), grads))
      return (sums, aux.carried, number + 1), None

    batch = jax.tree.map(parts, batch)
    first = jax.tree.map(lambda x: x[0], batch)
    (loss, aux), grads = jax.eval_shape(
      grad_of_part, folded, carried, first, fixed, rng
    )
    zeros = jax.tree.map(
      lambda x: jnp.zeros(x.shape, x.dtype), ((loss, aux.scalars), grads)
    )
    (sums, carried, _), _ = jax.lax.scan(add, (zeros, carried, 0), batch)
    (value, scalars), grads = jax.tree.map(lambda x: x / accum_steps, sums)
    return (value, scalars), carried, grads

  def update_step(state, batch, fixed=()):
    rng = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
    prepared = objective.prepare(batch, rng)
    params = state.params
    if spec.shard_state:
      params = sharding.gathered(params, mesh)
    # There are two ways to the gradient, with the same result up to rounding.
    if accum_steps > 1:
      # Folding (weight standardization) is done once a step, not once for each
      # part: gradients are summed in folded parameters, then pulled back.
      folded, pull_back = jax.vjp(objective.fold, params)
      (loss, scalars), carried, grads = accumulate(
        folded, state.carried, prepared, fixed, rng
      )
      (grads,) = pull_back(grads)
    else:
      # In one piece: in two, XLA's order of the step takes more temporaries.
      (loss, aux), grads = grad_of_whole(
        params, state.carried, prepared, fixed, jax.random.fold_in(rng, 0)
      )
      scalars, carried = aux
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = {
      "loss": loss,
      **scalars,
      "grad_norm": optax.tree.norm(grads),
      # Not of `updates`: XLA then takes two more passes over the parameters.
      "update_norm": optax.tree.norm(
        jax.tree.map(jnp.subtract, params, state.params)
      ),
      "learning_rate": schedule(state.step),
      "example_hash": example_hash(batch),
    }
    state = state.replace(
      step=state.step + 1, params=params, carried=carried, opt_state=opt_state
    )
    return state, metrics

  return jax.jit(
    update_step,
    donate_argnums=0,
    out_shardings=(_sharding(spec), sharding.replicated(mesh)),
  )
