"""Hooks of the training loop: checks, logs, saves, evaluations, stopping."""

import collections
import dataclasses
import math
import statistics
import time
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath

from bit_jax import progress
from bit_jax.errors import InputError, StoppedError
from bit_jax.parallel import sharding
from bit_jax.recipe.load import Config
from bit_jax.run import stopping, trained_on, watchdog
from bit_jax.run.best import Best
from bit_jax.run.evaluations import Evaluate
from bit_jax.run.start import Run
from bit_jax.run.step import TrainState
from bit_jax.storage import checkpoint
from bit_jax.writers.base import MetricWriter


def _check_finite(
  scalars: Mapping[str, float], step: int, workdir: epath.Path
) -> None:
  """Raises InputError where a number is not finite: the run is lost."""
  bad = {k: v for k, v in scalars.items() if not math.isfinite(v)}
  if not bad:
    return
  last = checkpoint.find(workdir / "checkpoints") or "none yet"
  key, value = next(iter(bad.items()))
  start = f"{key} is {value} at step {step}; the run has stopped, the last "
  # The state that is evaluated was trained with finite numbers.
  is_good = "" if key.startswith("eval/") else "good "
  start += f"{is_good}checkpoint is {last}. "
  if not is_good and not any(k.endswith("loss") for k in bad):
    raise InputError(
      f"{start}The losses are finite: this metric has no value for these "
      f"examples. Others in config.data.eval_splits may help, with "
      f"--config.resume_changed=true, or an objective that leaves it out"
    )
  raise InputError(
    f"{start}A lower config.optim.lr or a longer warm-up may help, in another "
    f"--workdir or with --config.resume_changed=true"
  )


def log_every_steps(config: Config) -> int:
  """Returns the steps between two lines of training metrics."""
  dense = max(1, min(50, config.resolved.total_steps // 100))
  return config.log_every_steps or dense


@dataclasses.dataclass(kw_only=True)
class Upkeep:
  """The hooks of one run, and what they need.

  Attributes:
    run: The run, loaded.
    start_step: Finished updates it goes on from.
    evaluations: Every way the state is evaluated, by name.
    checkpointer: Writes WORKDIR/checkpoints.
    metrics_writer: Takes all metrics.
    stop: The request to stop, if a signal has come.
    watchdog: Reports a run that makes no progress.
    best: The best evaluation so far; None if the best state is not kept.
    last_step: The step at which the run ends: total_steps, unless it ends
      early.
  """

  run: Run
  start_step: int
  evaluations: Mapping[str, Evaluate]
  checkpointer: checkpoint.Checkpointer
  metrics_writer: MetricWriter
  stop: stopping.StopRequest
  watchdog: watchdog.Watchdog
  best: Best | None = None

  def __post_init__(self):
    self._flag: Any = False
    self._any_host_asked = stopping.make_stop_flag(self.run.spec.mesh)
    config = self.run.config
    self.total_steps = self.last_step = config.resolved.total_steps
    self._save_every = config.checkpoint.every_steps
    self._evaluate_every = config.eval.every_steps
    self._log_every = log_every_steps(config)
    # The scalars of the last tenth of the steps.
    self._recent: collections.deque[Mapping[str, float]] = collections.deque(
      maxlen=max(1, self.total_steps // 10)
    )
    self._evaluated: tuple[int, dict[str, float]] | None = None
    if self.best:
      self.checkpointer.keep_also(self.best.step)

  def _is_due(self, step: int, every_steps: int) -> bool:
    return (
      0 < step < self.total_steps
      and every_steps > 0
      and step % every_steps == 0
    )

  def save_is_due(self, step: int) -> bool:
    """Returns True for the steps whose state is saved."""
    return step == self.total_steps or self._is_due(step, self._save_every)

  def evaluation_is_due(self, step: int) -> bool:
    """Returns True for the steps before the last that are evaluated."""
    return self._is_due(step, self._evaluate_every)

  def asked_to_stop(self) -> Any:
    """Returns a flag, the same on all hosts, that is read with bool later."""
    return self._any_host_asked(bool(self.stop.received))

  def log(self, step: int, metrics: Any, batches: Any) -> None:
    """Waits for a step; checks that its numbers are finite, and writes them.

    Args:
      step: Number of the step.
      metrics: What the update step returned.
      batches: Knows the share of time spent waiting for it.

    Raises:
      InputError: A number is not finite.
    """
    read = jax.device_get(metrics)
    # JAX sorts the keys; people look for the loss first.
    first = [k for k in ("loss", "accuracy") if k in read]
    scalars = {k: float(read[k]) for k in dict.fromkeys((*first, *read))}
    self.watchdog.progress(step)
    if not all(map(math.isfinite, scalars.values())):
      self.checkpointer.wait()
    _check_finite(scalars, step, self.run.workdir)
    self._recent.append(dict(scalars))
    if step == self.start_step + 1:
      self.run.clock.mark("compiling and running the step")
      self.run.log(str(self.run.clock))
    if step % self._log_every == 0 or step in (1, self.total_steps):
      scalars["input_wait"] = batches.waiting_fraction()
      self.metrics_writer.write_scalars(
        step, {f"train/{k}": v for k, v in scalars.items()}
      )
    else:
      self.metrics_writer.progress(step)

  def save(self, step: int, state: TrainState) -> None:
    """Starts saving a state whose numbers are finite."""
    started = time.monotonic()
    metadata = self.run.metadata(state.params)
    if self.best:
      metadata["best"] = dataclasses.asdict(self.best)
    self.checkpointer.save(step, state, metadata)
    secs = time.monotonic() - started
    self.metrics_writer.write_scalars(step, {"checkpoint/stall_secs": secs})
    self.metrics_writer.flush()

  def stopped(self, step: int) -> StoppedError:
    """Completes the last save; returns the error that ends the run."""
    self.checkpointer.wait()
    signal = self.stop.received or "a signal to another host"
    return StoppedError(
      f"stopped by {signal} after step {step}, which is saved; run the same "
      f"command again to go on"
    )

  def _check_stop(self, step: int) -> None:
    """Between evaluation batches: raises StoppedError if asked to stop."""
    self.watchdog.progress(step)
    # The flag of the batch before: waiting for this one's would keep the next
    # batch from starting.
    flag, self._flag = self._flag, self.asked_to_stop()
    if bool(flag):
      raise StoppedError

  def evaluate(
    self, step: int, state: TrainState, *, saved: bool
  ) -> dict[str, float]:
    """Returns all metrics `eval/NAME/...` of a state, and writes them.

    A state that is the best so far is saved, and one at which the run ends.

    Raises:
      StoppedError: A signal came; the state is saved.
    """
    if self._evaluated and self._evaluated[0] == step:
      return self._evaluated[1]
    self._flag, scalars = False, {}
    try:
      for name, evaluate in self.evaluations.items():
        values = evaluate(state, lambda: self._check_stop(step))
        scalars |= {f"eval/{name}/{k}": v for k, v in values.items()}
    except StoppedError:
      if not saved:
        self.save(step, state)
      raise self.stopped(step) from None
    if not all(map(math.isfinite, scalars.values())):
      self.checkpointer.wait()
    _check_finite(scalars, step, self.run.workdir)
    if scalars:
      self.metrics_writer.write_scalars(step, scalars)
    self._evaluated = step, scalars
    self._judge(step, state, scalars, saved=saved)
    return scalars

  @property
  def ends_early(self) -> bool:
    """True once too many evaluations had no better value."""
    return self.last_step < self.total_steps

  def _judge(
    self,
    step: int,
    state: TrainState,
    scores: Mapping[str, float],
    *,
    saved: bool,
  ) -> None:
    """Keeps the best state, and decides whether the run ends here."""
    if self.best is None:
      return
    is_best = self.best.update(step, scores)
    if is_best:
      self.checkpointer.keep_also(step)
    most = self.run.config.eval.early_stop_evals
    if most and self.best.worse >= most and step < self.total_steps:
      self.last_step = step
      self.run.log(
        f"no better {self.best.metric} in {self.best.worse} evaluations since "
        f"step {self.best.step}: the run ends early, at step {step}"
      )
    if (is_best or self.ends_early) and not saved:
      self.save(step, state)

  def finish(self, state: TrainState) -> dict[str, Any]:
    """Writes params.npz on host 0, and returns the result of the run.

    All hosts must call it, after everything else is written.
    """
    step, scores = self._evaluated or (self.last_step, {})
    result: dict[str, Any] = {"step": step}
    if self.ends_early:
      result["stopped_early"] = True
    of_best = False
    if self.best and self.best.step:
      of_best = self.run.config.checkpoint.best_params and (
        self.best.step != step
      )
      result["best_step"] = self.best.step
      result["best_value"] = self.best.value
    result |= self.best.scores if self.best and of_best else scores
    with progress.activity("writing params.npz"):
      self._write_weights(state, self.best.step if self.best and of_best else 0)
    if text := self._shortcoming():
      self.run.log(text)
    return result

  def _write_weights(self, state: TrainState, best_step: int) -> None:
    """Writes params.npz of the last state, or of the best one if it has one."""
    run, mesh = self.run, self.run.spec.mesh
    metadata = run.metadata(state.params)
    if run.is_lead:
      metadata |= {"trained_on": trained_on.describe(run.data.train)}
    if best_step:
      if run.is_lead:
        path = run.workdir / "checkpoints" / str(best_step)
        params, batch_stats, _ = checkpoint.load_weights(path)
        run.files.write_weights(params, batch_stats, metadata)
      return
    variables = sharding.to_host(state.variables, mesh)
    if run.is_lead:
      run.files.write_weights(
        variables["params"], variables["batch_stats"], metadata
      )

  def _shortcoming(self) -> str:
    """Returns a line if the run has not learned its training examples, or ''.

    The objective judges it by the means over the last tenth of the steps.
    """
    if not self._recent or self.ends_early:
      return ""
    means = {
      key: statistics.fmean(scalars[key] for scalars in self._recent)
      for key in self._recent[-1]
    }
    text = self.run.spec.objective.shortcoming(means)
    more = f"more steps may help: --config.total_steps={3 * self.total_steps}"
    return text and f"{text}; {more}, in another --workdir"
