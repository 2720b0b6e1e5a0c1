"""One loop for every recipe: train_and_evaluate, from config to result."""

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from clu import parameter_overview
from etils import epath
from jax.sharding import Mesh

from bit_jax import (
  checkpoint,
  digest,
  evaluate,
  fewshot,
  hosts,
  parallel,
  recipe,
  resume,
  run_config,
  stopping,
  validate,
  watchdog,
  weights,
  writer,
)
from bit_jax.data import pipeline, run_data
from bit_jax.errors import InputError, StoppedError
from bit_jax.recipe import Config
from bit_jax.step import (
  TrainState,
  make_abstract_state,
  make_model,
  make_update_step,
)


class _Waits:
  """Iterates over batches and adds up the time spent waiting for them."""

  def __init__(self, batches: Iterator[pipeline.Batch]):
    self._batches = batches
    self._since = time.monotonic()
    self._waited_secs = 0.0

  def __iter__(self) -> Iterator[pipeline.Batch]:
    while True:
      start = time.monotonic()
      try:
        batch = next(self._batches)
      except StopIteration:
        return
      self._waited_secs += time.monotonic() - start
      yield batch

  def fraction(self) -> float:
    """Returns the share of time spent waiting since the last call."""
    now = time.monotonic()
    share = self._waited_secs / max(now - self._since, 1e-9)
    self._since, self._waited_secs = now, 0.0
    return share


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


@dataclasses.dataclass
class _Run:
  """What the loop needs besides the state, and what it does now and then."""

  config: Config
  workdir: epath.Path
  mesh: Mesh
  data: run_data.RunData
  probes: Mapping[str, run_data.Probe]
  checkpointer: checkpoint.Checkpointer
  metrics_writer: writer.MetricWriter
  stop: stopping.StopRequest
  watchdog: watchdog.Watchdog

  def __post_init__(self):
    self.agree = stopping.make_agreement(self.mesh)
    self.metadata = run_config.checkpoint_metadata(
      self.config,
      self.data.train.class_names,
      recipe.eval_preprocess(self.config),
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
    if bool(self.agree(bool(self.stop.received))):
      raise StoppedError

  def evaluate(
    self, step: int, state: TrainState, *, saved: bool
  ) -> dict[str, float]:
    """Returns all metrics `eval/NAME/...` of a state, and writes them.

    Raises:
      StoppedError: a signal came; the state is saved.
    """
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
    eval_step = evaluate.make_eval_step(config, mesh)
    for name, source in self.data.evals.items():
      values = evaluate.evaluate(
        eval_step,
        state.variables,
        source,
        recipe.eval_preprocess(config),
        batch_size=config.eval.batch_size,
        mesh=mesh,
        num_threads=config.input.num_threads,
        after_batch=lambda: self._heed_stop(step),
      )
      scalars |= {f"eval/{name}/{k}": v for k, v in values.items()}
    for name, probe in self.probes.items():
      values = fewshot.evaluate_few_shot(
        fewshot.make_feature_step(make_model(config), mesh),
        state.variables,
        probe.train,
        probe.test,
        fewshot.default_preprocess(probe.train, config.resolved.crop_px),
        mesh,
        shots=config.eval.fewshot_shots,
      )
      scalars |= {f"eval/fewshot_{name}/{k}": v for k, v in values.items()}
    return scalars


def train_and_evaluate(
  config: Config, workdir: epath.PathLike
) -> dict[str, Any]:
  """Runs a recipe from its config to its result, resuming where it stopped.

  Args:
    config: of `configs/`; rules are resolved here, when the data is known.
    workdir: made if missing, once all that can be checked was good; DESIGN.md
      says what it holds at the end.

  Returns:
    What result.json holds: `step`, and `eval/NAME/accuracy`,
    `.../top5_accuracy` and `.../loss` for each evaluation split.

  Raises:
    InputError: the config, the data, a checkpoint or the work directory is not
      usable, or the loss is not finite; the message says what was expected.
    StoppedError: a signal of `stopping.SIGNALS` came; the state is saved.
  """
  workdir, started = epath.Path(workdir).expanduser(), time.monotonic()
  is_lead = jax.process_index() == 0
  say = functools.partial(print, flush=True) if is_lead else lambda *_: None
  mesh = parallel.make_mesh()
  validate.check(config, mesh)

  data = run_data.load(
    config.data, seed=config.seed, held_out=run_config.read_held_out(workdir)
  )
  probes = run_data.load_probes(config.eval.fewshot, config.data.dir)
  config = recipe.resolve(config, run_data.facts(data))
  total_steps = config.resolved.total_steps
  run_config.check_unchanged(workdir, config)
  finished = run_config.read_result(workdir)
  if finished and finished["step"] == total_steps:
    say(f"{workdir} is finished: {run_config.summary(finished)}")
    return finished
  say(run_config.describe(config, data, mesh))
  data_secs = time.monotonic() - started

  with contextlib.ExitStack() as stack:
    stop = stack.enter_context(stopping.StopRequest())
    digest.compile_ahead(make_abstract_state(config, mesh))
    # Nothing is written before all that can be wrong at start was tried.
    folder = workdir / "checkpoints"
    if checkpoint.steps(folder):
      checkpointer = resume.open_checkpoints(folder, config)
      stack.enter_context(checkpointer)
      start_step, state = resume.restore_newest(
        checkpointer, folder, config, mesh, say
      )
    else:
      start_step, state = 0, resume.start_anew(config, mesh)
      checkpointer = None
    update_step = make_update_step(config, mesh)
    run_config.claim(workdir, config, data.held_out, write=is_lead)
    hosts.check_agreement(workdir, config)
    run = _Run(
      config,
      workdir,
      mesh,
      data,
      probes,
      checkpointer
      or stack.enter_context(resume.open_checkpoints(folder, config)),
      writer.create(
        workdir,
        total_steps=total_steps,
        start_step=start_step,
        batch_size=config.input.batch_size,
        is_lead=is_lead,
      ),
      stop,
      stack.enter_context(
        watchdog.Watchdog(
          config.watchdog_mins,
          host=jax.process_index(),
          num_hosts=jax.process_count(),
          folder=workdir / "hosts",
        )
      ),
    )
    stack.callback(run.metrics_writer.close)
    if start_step:
      say(f"resumed from step {start_step} of {folder}")
    elif is_lead:
      overview = parameter_overview.get_parameter_overview(
        state.params, include_stats=False
      )
      (workdir / "parameters.txt").write_text(overview + "\n")
      say(run_config.describe_params(state.params))
    state_secs = time.monotonic() - started - data_secs
    batches = stack.enter_context(
      pipeline.train_batches(
        data.train,
        recipe.train_preprocess(config),
        batch_size=config.input.batch_size,
        seed=config.seed,
        start_step=start_step,
        total_steps=total_steps,
        mesh=mesh,
        num_threads=config.input.num_threads,
      )
    )
    waits = _Waits(batches)

    def log(step, metrics):
      scalars = run.check(step, metrics)
      if step == start_step + 1:
        secs = time.monotonic() - started
        say(
          f"first step after {secs:.1f} s: data {data_secs:.1f}, state "
          f"{state_secs:.1f}, compiling and running the step "
          f"{secs - data_secs - state_secs:.1f}"
        )
      if step % config.log_every_steps == 0 or step in (1, total_steps):
        scalars["input_wait"] = waits.fraction()
        run.metrics_writer.write_scalars(
          step, {f"train/{k}": v for k, v in scalars.items()}
        )

    if run.is_due(start_step, config.eval.every_steps):
      # It comes after the save it was cut off.
      run.evaluate(start_step, state, saved=True)
    running, must_stop = None, False
    for step, batch in enumerate(waits, start_step + 1):
      state, metrics = update_step(state, batch)
      flag = run.agree(bool(stop.received))
      # Two steps in flight: this one is queued while the last one is read.
      if running:
        log(*running[:2])
        must_stop = bool(running[2])
      running = step, metrics, flag
      save = run.is_due(step, config.checkpoint.every_steps)
      save = save or must_stop or step == total_steps
      evaluate_now = run.is_due(step, config.eval.every_steps)
      if save or evaluate_now:
        log(step, metrics)  # Only a state whose numbers are finite is saved.
        running, must_stop = None, must_stop or bool(flag)
      if save or must_stop:
        run.save(step, state)
      if must_stop:
        raise run.stopped(step)
      if evaluate_now:
        run.evaluate(step, state, saved=save)
    result = {
      "step": total_steps,
      **run.evaluate(total_steps, state, saved=True),
    }
    run.checkpointer.wait()

  params = parallel.to_host(state.params, mesh)
  batch_stats = parallel.to_host(state.batch_stats, mesh)
  if is_lead:
    weights.save_npz(
      workdir / "params.npz",
      weights.Weights(
        params,
        batch_stats,
        config.model.variant,
        data.train.class_names,
        run.metadata["preprocess"],
        run.metadata["model_options"],
      ),
    )
    run_config.write_result(workdir, result)
  say(f"{workdir}: {run_config.summary(result)}")
  return result
