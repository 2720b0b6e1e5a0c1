"""Chooses in how many parts a training step is computed, so that it fits.

Gradients are summed over the parts, which changes nothing but rounding.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from bit_jax.errors import InputError
from bit_jax.preflight import aot
from bit_jax.recipe.load import Config
from bit_jax.run import step
from bit_jax.run.step import StepSpec

# While a step holds its own batch, `pipeline` keeps two more on the devices and
# transfers a third.
WAITING_BATCHES = 3

# Temporaries in units of the batch in float32, at 64 and 128 px (measured, CPU,
# jax 0.10.2): 90 with R14x0.25, 230 with R50x1; about 2,000 are expected with
# R152x4, which has 4 times the channels and 2.5 times the layers of R50x1.
_TYPICAL, _MOST = 300, 3000
# Temporaries that do not depend on the batch, in units of the parameters: 2.4
# in one part and 3.8 in several (measured, R50x1). A smaller number only makes
# the estimate more careful.
_GRADIENTS = 3
_DAY_SECS = 86400


def choose(
  spec: StepSpec,
  config: Config,
  fixed: Any,
  log: Callable[[str], object],
  *,
  usable_bytes: int | None = None,
  compiler: Callable[..., aot.StepCost] = aot.compile_spec,
) -> int:
  """Returns the smallest number of parts with which the step fits.

  Nothing is compiled where the step clearly fits in one part, or where the
  memory is unknown. Else one compilation gives an estimate, and one more
  confirms it, which the run then finds in its compilation cache.

  Args:
    spec: Of the step, in one part.
    config: The resolved config.
    fixed: The objective's fixed arrays, or jax.ShapeDtypeStruct.
    log: Called with lines for people.
    usable_bytes: Memory that a program may use on one device; None to ask it.
    compiler: (spec, config, fixed) -> cost.

  Raises:
    InputError: The step does not fit in any number of parts.
  """
  device = spec.mesh.devices.flat[0]
  usable = aot.usable_bytes(device) if usable_bytes is None else usable_bytes
  rows = config.input.batch_size // spec.mesh.size
  row_bytes = 3 * 4 * config.resolved.crop_px**2
  state = step.make_abstract_state(spec)
  params = aot.device_bytes(state.params)
  batch = aot.abstract_batch(config, spec)
  arguments = aot.device_bytes((state, batch, fixed))
  free = usable - WAITING_BATCHES * aot.device_bytes(batch)
  most = arguments + 2 * _GRADIENTS * params + _MOST * rows * row_bytes
  if not usable or most <= free:
    return 1

  costs: dict[int, aot.StepCost] = {}

  def total_bytes(parts: int) -> int:
    if parts not in costs:
      size = rows // parts
      log(
        f"compiling the step in parts of {size} images a device, to see how "
        f"much memory it takes"
      )
      costs[parts] = compiler(
        dataclasses.replace(spec, accum_steps=parts), config, fixed
      )
    cost = costs[parts]
    return usable + 1 if cost.refusal else cost.total_bytes

  if step.needs_whole_batch(spec):
    choices = [1]
  else:
    choices = [parts for parts in range(1, rows + 1) if rows % parts == 0]
  # From the parts of the memory that do not depend on the batch.
  start = arguments + _GRADIENTS * params
  at = _first_guess(choices, rows, free // (_TYPICAL * row_bytes))
  slope = max(total_bytes(choices[at]) - start, 1) * choices[at] / rows
  near = [start + slope * rows / parts <= free for parts in choices]
  at = near.index(True) if any(near) else len(choices) - 1
  # The estimate may be wrong in both directions.
  while total_bytes(choices[at]) > free:
    at += 1
    if at == len(choices):
      needed = total_bytes(choices[-1])
      raise InputError(_refusal(spec, config, needed, free))
  while at and choices[at - 1] not in costs:
    if _on_line(costs, rows, choices[at - 1]) > free:
      break
    if total_bytes(choices[at - 1]) > free:
      break
    at -= 1
  parts = choices[at]
  _report(spec, config, parts, costs[parts], free, log)
  return parts


def _first_guess(choices: Sequence[int], rows: int, most_rows: int) -> int:
  """Returns the place of the fewest parts of at most `most_rows` rows."""
  small = [i for i, parts in enumerate(choices) if rows // parts <= most_rows]
  return small[0] if small else len(choices) - 1


def _on_line(costs: Mapping[int, aot.StepCost], rows: int, parts: int) -> float:
  """Returns the bytes of a number of parts, by those that were compiled."""
  known = sorted(
    (rows // p, cost.total_bytes)
    for p, cost in costs.items()
    if not cost.refusal
  )
  (low, at_low), (high, at_high) = known[0], known[-1]
  slope = (at_high - at_low) / (high - low) if high > low else at_high / high
  return at_high + slope * (rows / parts - high)


def _refusal(spec: StepSpec, config: Config, needed: int, free: int) -> str:
  whole = step.needs_whole_batch(spec)
  least = (
    f"{config.input.batch_size} images at once, which this network's batch "
    "statistics need"
    if whole
    else "even one image at a time"
  )
  smaller = "--config.input.batch_size, " if whole else ""
  return (
    f"the step does not fit: a device needs {needed / aot.GIB:.1f} GiB for "
    f"{least}, and has {max(0, free) / aot.GIB:.1f}; less is needed with "
    f"--config.model.remat=unit, --config.model.dtype=bfloat16, a smaller "
    f"{smaller}--config.input.crop_px or model=; bit_jax.tools.preflight finds "
    "what fits"
  )


def _report(spec, config, parts, cost, free, log) -> None:
  size = config.input.batch_size
  if parts > 1:
    log(
      f"a step of {size} images is computed in {parts} parts of "
      f"{size // parts}, which takes {cost.total_bytes / aot.GIB:.1f} of "
      f"{free / aot.GIB:.1f} GiB a device; config.optim.accum_steps sets "
      "another number"
    )
  if spec.mesh.devices.flat[0].platform != "cpu":
    return
  secs = cost.flops / _flops_per_sec() * config.resolved.total_steps
  if secs > _DAY_SECS:
    log(
      f"{config.resolved.total_steps:,} steps take more than "
      f"{secs / _DAY_SECS:.0f} days on this machine, as fast as it multiplies "
      "matrices; preset=quick, a smaller model= or --config.input.crop_px take "
      "less"
    )


def _flops_per_sec() -> float:
  """Returns the speed of a product of matrices, the most a network reaches."""
  side = 2048
  multiply = jax.jit(lambda x: x @ x)
  x = jnp.ones((side, side))
  multiply(x).block_until_ready()
  start = time.monotonic()
  multiply(x).block_until_ready()
  return 2 * side**3 / (time.monotonic() - start)
