"""What happens around the updates: checks, saves, evaluations and stopping."""

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh

from bit_jax.errors import InputError, StoppedError
from bit_jax.evaluate import fewshot, inference, metrics
from bit_jax.models import paths
from bit_jax.recipe import resolve
from bit_jax.recipe.load import Config
from bit_jax.run import sources, stopping, watchdog, workdir_files
from bit_jax.run.step import TrainState, make_model
from bit_jax.storage import checkpoint
from bit_jax.writers.base import MetricWriter


def _check_finite(
  scalars: Mapping[str, float], step: int, workdir: epath.Path
) -> None:
  """Raises InputError where a number is not finite: the run is lost."""
  for key, value in scalars.items():
    if not math.isfinite(value):
      last = checkpoint.find(workdir / "checkpoints") or "none yet"
      raise InputError(
        f"{key} is {value} at step {step}; the run has stopped, the last good "
        f"checkpoint is {last}. A lower config.optim.lr or a longer warm-up "
        f"may help, in another --workdir or with --config.resume_changed=true"
      )


def has_fixed_features(state: TrainState, frozen: Sequence[str]) -> bool:
  """Tells whether training changes nothing before the head.

  Args:
    state: the train state.
    frozen: patterns of parameters that are not trained.
  """
  matched = paths.flatten(paths.match(state.params, frozen))
  # Running statistics move, whatever is frozen.
  return not state.batch_stats and all(
    is_frozen or path.startswith("head/") for path, is_frozen in matched.items()
  )


@dataclasses.dataclass(kw_only=True)
class Upkeep:
  """What a run needs besides its state and batches.

  Attributes:
    config: resolved.
    workdir: of the run.
    mesh: of all devices.
    data: its sources.
    probes: sets for few-shot linear evaluation, by name.
    checkpointer: of WORKDIR/checkpoints.
    metrics_writer: of all metrics.
    stop: asked by signals.
    watchdog: told of all progress.
    agree: of `stopping.make_agreement`.
    metadata: saved with each checkpoint.
  """

  config: Config
  workdir: epath.Path
  mesh: Mesh
  data: sources.RunData
  probes: Mapping[str, sources.FewshotSet]
  checkpointer: checkpoint.Checkpointer
  metrics_writer: MetricWriter
  stop: stopping.StopRequest
  watchdog: watchdog.Watchdog

  def __post_init__(self):
    self._flag: Any = False
    self._probed: dict[str, dict[str, float]] = {}
    self.agree = stopping.make_agreement(self.mesh)
    self.metadata = workdir_files.checkpoint_metadata(
      self.config,
      self.data.train.class_names,
      resolve.eval_preprocess(self.config),
    )

  def is_due(self, step: int, every_steps: int) -> bool:
    """Tells whether something that happens now and then does at a step."""
    total = self.config.resolved.total_steps
    return 0 < step < total and every_steps > 0 and step % every_steps == 0

  def check(self, step: int, metrics: Any) -> dict[str, float]:
    """Waits for a step; returns its numbers once they are found finite."""
    scalars = {k: float(v) for k, v in jax.device_get(metrics).items()}
    self.watchdog.progress(step)
    if not all(map(math.isfinite, scalars.values())):
      self.checkpointer.wait()
    _check_finite(scalars, step, self.workdir)
    return scalars

  def save(self, step: int, state: TrainState) -> None:
    """Starts saving a state whose numbers are finite."""
    started = time.monotonic()
    self.checkpointer.save(step, state, self.metadata)
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

  def _heed_stop(self, step: int) -> None:
    """Between evaluation batches: raises StoppedError if asked to stop."""
    self.watchdog.progress(step)
    # The last batch's: waiting for this one's would stop the next batch.
    flag, self._flag = self._flag, self.agree(bool(self.stop.received))
    if bool(flag):
      raise StoppedError

  def evaluate(
    self, step: int, state: TrainState, *, saved: bool
  ) -> dict[str, float]:
    """Returns all metrics `eval/NAME/...` of a state, and writes them.

    Raises:
      StoppedError: a signal came; the state is saved.
    """
    self._flag = False
    try:
      scalars = self._evaluate(step, state)
    except StoppedError:
      if not saved:
        self.save(step, state)
      raise self.stopped(step) from None
    _check_finite(scalars, step, self.workdir)
    if scalars:
      self.metrics_writer.write_scalars(step, scalars)
    return scalars

  def _evaluate(self, step: int, state: TrainState) -> dict[str, float]:
    config, mesh, scalars = self.config, self.mesh, {}
    eval_step = metrics.make_eval_step(config, mesh)
    # One size for all splits: one compiled step.
    longest = max(map(len, self.data.evals.values()), default=0)
    batch_size = config.eval.batch_size
    batch_size = batch_size or inference.default_batch_size(longest, mesh)
    for name, source in self.data.evals.items():
      values = metrics.evaluate_split(
        eval_step,
        state.variables,
        source,
        resolve.eval_preprocess(config),
        batch_size=batch_size,
        mesh=mesh,
        num_threads=config.input.num_threads,
        after_batch=lambda: self._heed_stop(step),
      )
      scalars |= {f"eval/{name}/{k}": v for k, v in values.items()}
    for name, probe in self.probes.items():
      values = self._probed.get(name) or fewshot.evaluate_few_shot(
        inference.make_feature_step(make_model(config), mesh),
        state.variables,
        probe.train,
        probe.test,
        fewshot.default_preprocess(probe.train, config.resolved.crop_px),
        mesh,
        shots=config.eval.fewshot_shots,
      )
      if has_fixed_features(state, config.optim.freeze):
        self._probed[name] = values
      scalars |= {f"eval/fewshot_{name}/{k}": v for k, v in values.items()}
    return scalars
