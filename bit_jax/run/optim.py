"""Learning-rate schedules, SGD with momentum, weight decay and freezing."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from bit_jax.models import paths


def step_schedule(
  peak: float,
  warmup_steps: int,
  decay_steps: Sequence[int],
  decay_factor: float = 0.1,
  *,
  one_late: bool = False,
) -> Callable[[Any], jax.Array]:
  """Returns a schedule of linear warm-up and then a step-wise decay.

  The first update has the rate peak / warmup_steps, update number warmup_steps
  has the peak, and the update after `decay_steps[i]` finished ones is the first
  with the next lower rate.

  Args:
    peak: Learning rate after the warm-up.
    warmup_steps: Number of updates until the peak; 0 for no warm-up.
    decay_steps: Numbers of finished updates at which the rate falls.
    decay_factor: Factor that the rate falls by.
    one_late: True for the schedule of the official code: everything happens one
      update later and the first rate is 0, because its `lr` counts from a step
      that is one too low.

  Returns:
    A function from the number of finished updates (int scalar) to the float32
    learning rate of the next one.

  Example:
    >>> from bit_jax.run import optim
    >>> rate = optim.step_schedule(0.5, warmup_steps=2, decay_steps=[4, 6])
    >>> [f"{rate(finished):.3f}" for finished in range(7)]
    ['0.250', '0.500', '0.500', '0.500', '0.050', '0.050', '0.005']
  """

  def schedule(finished):
    step = jnp.asarray(finished) - one_late
    rate = jnp.float32(peak)
    if warmup_steps:
      rate = rate * jnp.clip((step + 1) / warmup_steps, 0.0, 1.0)
    decays = sum((step >= s).astype(jnp.float32) for s in decay_steps)
    return rate * jnp.float32(decay_factor) ** decays

  return schedule


def freeze(params: Any, patterns: Sequence[str]) -> Any:
  """Stops the gradient of matching parameters, so that none is computed."""
  return jax.tree.map(
    lambda p, frozen: jax.lax.stop_gradient(p) if frozen else p,
    params,
    paths.match(params, patterns),
  )


def is_kernel(params: Any) -> Any:
  """Marks the kernels (head included), on which weight decay acts."""
  return paths.match(params, [".*kernel$"])


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """SGD with momentum and weight decay on the kernels, as a hashable value.

  "Coupled" is the classic L2 penalty: weight_decay * kernel is added to the
  gradient, before momentum and learning rate. The momentum accumulates it over
  1 / (1 - momentum) updates; "decoupled" adds that much at once, after the
  momentum. Both are the same without momentum, and shrink a kernel at the same
  rate once the momentum has warmed up. big_vision's 3e-5 x batch / 256, which
  follows the schedule but not the learning rate, is decoupled 1e-4 at BiT's
  0.03 x batch / 256 and 0.9. Frozen parameters have neither updates nor
  momentum.

  Attributes:
    peak_lr: Learning rate after the warm-up.
    warmup_steps: Steps of linear warm-up.
    decay_steps: Finished updates at which the rate falls.
    decay_factor: Factor it falls by.
    one_late: True for the official code's schedule; see `step_schedule`.
    momentum: Momentum, in [0, 1).
    momentum_dtype: Dtype of the momentum between updates; bfloat16 takes a
      quarter less memory for the train state and rounds to 3 digits (not in the
      paper).
    weight_decay: Coupled coefficient, also if `decoupled` is True.
    decoupled: True to apply the decay after the momentum.
    frozen: Patterns of the paths of parameters that are not trained.
  """

  peak_lr: float
  warmup_steps: int = 0
  decay_steps: tuple[int, ...] = ()
  decay_factor: float = 0.1
  one_late: bool = False
  momentum: float = 0.9
  momentum_dtype: str = "float32"
  weight_decay: float = 0.0
  decoupled: bool = False
  frozen: tuple[str, ...] = ()

  @classmethod
  def of(cls, config: Any) -> "Optimizer":
    """Returns the optimiser of a resolved config."""
    resolved, optim = config.resolved, config.optim
    return cls(
      peak_lr=resolved.peak_lr,
      warmup_steps=resolved.warmup_steps,
      decay_steps=tuple(resolved.decay_steps),
      decay_factor=config.schedule.decay_factor,
      one_late=config.hyperrule == "code",
      momentum=optim.momentum,
      momentum_dtype=optim.momentum_dtype,
      weight_decay=optim.weight_decay,
      decoupled=optim.decoupled,
      frozen=tuple(optim.freeze),
    )

  def schedule(self) -> Callable[[Any], jax.Array]:
    """Returns the learning-rate schedule, as `step_schedule` does."""
    return step_schedule(
      self.peak_lr,
      self.warmup_steps,
      self.decay_steps,
      self.decay_factor,
      one_late=self.one_late,
    )

  def tx(self) -> optax.GradientTransformation:
    """Returns the Optax transformation, whose state is in checkpoints."""
    decay = optax.identity()
    if self.weight_decay:
      scale = 1 / (1 - self.momentum) if self.decoupled else 1.0
      decay = optax.add_decayed_weights(self.weight_decay * scale, is_kernel)
    # None keeps the dtype of the parameters, which may be float64.
    rounded = self.momentum_dtype != "float32"
    kept = jnp.dtype(self.momentum_dtype) if rounded else None
    trace = optax.trace(self.momentum, accumulator_dtype=kept)
    order = (trace, decay) if self.decoupled else (decay, trace)
    tx = optax.chain(*order, optax.scale_by_learning_rate(self.schedule()))
    if not self.frozen:
      return tx

    def labels(params):
      mask = paths.match(params, self.frozen)
      return jax.tree.map(lambda f: "frozen" if f else "trained", mask)

    return optax.partition(
      {"trained": tx, "frozen": optax.set_to_zero()}, labels
    )
