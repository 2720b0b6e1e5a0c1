"""One loop for every recipe: train_and_evaluate, from config to result."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
from clu import parameter_overview
from etils import epath

from bit_jax import progress
from bit_jax.data import pipeline
from bit_jax.objectives.objective import Objective
from bit_jax.parallel import hosts
from bit_jax.recipe.load import Config
from bit_jax.run import (
  best,
  describe,
  evaluations,
  first_state,
  start,
  stopping,
  watchdog,
  workdir_files,
)
from bit_jax.run.sources import RunData
from bit_jax.run.step import TrainState, make_abstract_state, make_update_step
from bit_jax.run.upkeep import Upkeep
from bit_jax.storage import checkpoint, remote
from bit_jax.writers import log_file, writer


class _Batches:
  """Iterates over batches and adds up the time spent waiting for them."""

  def __init__(self, batches: Iterator[pipeline.Batch]):
    self._batches = batches
    self._since = time.monotonic()
    self._waited_secs = 0.0

  def __iter__(self) -> Iterator[pipeline.Batch]:
    while True:
      asked = time.monotonic()
      try:
        batch = next(self._batches)
      except StopIteration:
        return
      self._waited_secs += time.monotonic() - asked
      yield batch

  def waiting_fraction(self) -> float:
    """Returns the share of time spent waiting since the last call."""
    now = time.monotonic()
    share = self._waited_secs / max(now - self._since, 1e-9)
    self._since, self._waited_secs = now, 0.0
    return share


class _InFlight(NamedTuple):
  """A step that runs on the devices.

  Attributes:
    step: Its number.
    metrics: Metrics of the update step, still to be read.
    must_stop: True if a host was asked to stop before it; still to be read.
  """

  step: int
  metrics: Any
  must_stop: Any


def train_and_evaluate(
  config: Config,
  workdir: epath.PathLike,
  *,
  objective: Objective | None = None,
  fixed: Any = (),
  data: RunData | None = None,
  choose_parts: start.ChooseParts | None = None,
) -> dict[str, Any]:
  """Runs a recipe from its config to its result, resuming where it stopped.

  Args:
    config: A config of `configs/` or of your own with the same keys. Its rules
      are resolved here, when the data is known.
    workdir: Made if missing, once everything that can be checked was good. At
      the end it holds config.json, metrics.jsonl, TensorBoard events,
      checkpoints/, parameters.txt, params.npz and result.json.
    objective: What to learn instead of what config.objective names.
    fixed: Arrays that this objective reads and never changes.
    data: Sources to use instead of those that config.data names.
    choose_parts: Chooses in how many parts a step is computed where
      config.optim.accum_steps is 0; `preflight.parts.choose` finds what fits in
      memory. None for one part.

  Returns:
    What result.json holds: `step`, and the metrics `eval/NAME/...` of the
    objective for each evaluation split, such as `eval/test/accuracy`.

  Raises:
    InputError: The config, the data, a checkpoint or the work directory is not
      usable, or the loss is not finite; the message says what was expected.
    StoppedError: A signal of `stopping.SIGNALS` came; the state is saved.
  """
  with log_file.LogFile() as shown:
    # Check and load. Everything that can fail at the start fails before the
    # work directory is touched.
    inputs = start.load(
      config, workdir, data=data, own_network=objective is not None
    )
    if inputs.result and start.is_finished(inputs, objective, fixed):
      summary = describe.summary(inputs.result)
      inputs.log(f"{inputs.workdir} is finished: {summary}")
      return inputs.result
    run = start.load_objective(inputs, objective, fixed, choose_parts)
    with contextlib.ExitStack() as stack:
      # Open and restore.
      upkeep, state = _open(run, shown, stack)
      batches = stack.enter_context(
        pipeline.train_batches(
          run.data.train,
          run.train_preprocess,
          batch_size=run.config.input.batch_size,
          seed=run.config.seed,
          start_step=upkeep.start_step,
          total_steps=upkeep.total_steps,
          mesh=run.spec.mesh,
          num_threads=run.config.input.num_threads,
        )
      )
      # Loop.
      state = _loop(run, upkeep, state, _Batches(batches))
      # End.
      upkeep.evaluate(upkeep.last_step, state, saved=True)
      upkeep.checkpointer.wait()
    result = upkeep.finish(state)
    if run.is_lead:
      workdir_files.write_result(run.workdir, result)
    run.log(f"{run.workdir}: {describe.summary(result)}")
    return result


def _open(
  run: start.Run, shown: log_file.LogFile, stack: contextlib.ExitStack
) -> tuple[Upkeep, TrainState]:
  """Restores or makes the state, then opens all that the run writes to."""
  config, folder = run.config, run.workdir / "checkpoints"
  stop = stack.enter_context(stopping.StopRequest())
  stall_monitor = stack.enter_context(
    watchdog.Watchdog(
      config.watchdog_mins,
      host=jax.process_index(),
      num_hosts=jax.process_count(),
      folder=run.workdir / "hosts",
    )
  )
  checkpoint.prepare(make_abstract_state(run.spec))
  with progress.activity("making or reading the first state"):
    start_step, state = first_state.load(
      folder,
      run.spec,
      config,
      run.files,
      run.log,
      run.data.train.class_names,
    )
  run.files.write_config(run.data.held_out, run.data.skipped, write=run.is_lead)
  hosts.check_workdir(run.workdir)
  if run.is_lead:
    shown.open(run.workdir)
  upkeep = Upkeep(
    run=run,
    start_step=start_step,
    evaluations=evaluations.make(
      config,
      run.spec,
      run.data,
      run.fewshot_sets,
      run.eval_preprocess,
      run.fixed,
    ),
    checkpointer=stack.enter_context(
      checkpoint.Checkpointer(
        folder,
        keep=config.checkpoint.keep,
        keep_every_steps=config.checkpoint.keep_every_steps,
      )
    ),
    metrics_writer=stack.enter_context(
      writer.create(
        run.workdir,
        total_steps=config.resolved.total_steps,
        start_step=start_step,
        batch_size=config.input.batch_size,
        is_lead=run.is_lead,
        # Where the config does not say how often, people need not see all.
        train_line_secs=0.0 if config.log_every_steps else 1.0,
      )
    ),
    stop=stop,
    watchdog=stall_monitor,
    best=best.of_checkpoint(config, folder, start_step),
  )
  if start_step:
    run.log(f"resumed from step {start_step} of {folder}")
  elif run.is_lead:
    overview = parameter_overview.get_parameter_overview(
      state.params, include_stats=False
    )
    path = run.workdir / "parameters.txt"
    with remote.writing(path):
      path.write_text(overview + "\n")
    run.log(describe.describe_params(state.params))
  run.clock.mark("state")
  return upkeep, state


def _loop(
  run: start.Run, upkeep: Upkeep, state: TrainState, batches: _Batches
) -> TrainState:
  """Makes all updates that are left and returns the last state.

  Step N is dispatched before the numbers of step N-1 are read, so that the
  devices never wait for the host. A save or an evaluation reads the numbers of
  its own step first: only a state whose numbers are finite is kept. Whether to
  stop is agreed upon in the same rhythm, one step late, as a flag on the
  devices, so that all hosts leave the loop after the same step. A run that was
  stopped between a save and the evaluation of the same step makes up for the
  evaluation before it goes on.
  """
  update_step = make_update_step(run.spec)
  if upkeep.evaluation_is_due(upkeep.start_step):
    upkeep.evaluate(upkeep.start_step, state, saved=True)
    if upkeep.ends_early:
      return state
  last, must_stop = None, False
  for step, batch in enumerate(batches, upkeep.start_step + 1):
    state, metrics = update_step(state, batch, run.fixed)
    this = _InFlight(step, metrics, upkeep.asked_to_stop())
    if last:
      upkeep.log(last.step, last.metrics, batches)
      must_stop = bool(last.must_stop)
    last = this
    save = must_stop or upkeep.save_is_due(step)
    evaluate_now = upkeep.evaluation_is_due(step)
    if save or evaluate_now:
      upkeep.log(step, metrics, batches)
      last, must_stop = None, must_stop or bool(this.must_stop)
    if save or must_stop:
      upkeep.save(step, state)
    if must_stop:
      raise upkeep.stopped(step)
    if evaluate_now:
      upkeep.evaluate(step, state, saved=save)
      if upkeep.ends_early:
        break
  return state
