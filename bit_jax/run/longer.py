"""Says what becomes of the learning rate if a run gets more steps later."""

from collections.abc import Mapping
from typing import Any

from bit_jax.run import optim


def about(old: Mapping[str, Any], new: Mapping[str, Any], step: int) -> str:
  """Returns why more steps are no longer schedule, and what to do; or ''.

  A schedule that ended, or nearly did, has made the rate small. The rest of a
  longer one, from there, either stays at such a rate or raises it again.

  Args:
    old: The config that the run has, resolved, as nested dicts.
    new: The config it is to go on with.
    step: Finished updates.

  Returns:
    '' if the new config has no more steps, or the rate had not decayed yet.
  """
  before, after = old.get("resolved", {}), new["resolved"]
  total, longer = before.get("total_steps", 0), after["total_steps"]
  if not 0 < total < longer or not step:
    return ""
  step = min(step, total)
  rate, peak = _rate(old, step - 1), before["peak_lr"]
  if step <= before["warmup_steps"] or not rate < peak:
    return ""
  start = old.get("init", {}).get("checkpoint") or ""
  anew = f"--config.init.checkpoint={start}" if start else "random weights"
  return (
    f"the learning rate has already decayed, from {peak:g} to {rate:g} at step "
    f"{step} of {total}, and the next one is {_rate(new, step):g}: going on is "
    f"not the same as a schedule of {longer} steps; for that, start anew in "
    f"another --workdir from {anew}"
  )


def _rate(config: Mapping[str, Any], finished: int) -> float:
  """Returns the learning rate of the update after some finished ones."""
  resolved = config["resolved"]
  schedule = optim.step_schedule(
    resolved["peak_lr"],
    resolved["warmup_steps"],
    resolved["decay_steps"],
    config["schedule"]["decay_factor"],
    one_late=config["hyperrule"] == "code",
  )
  return float(schedule(finished))
