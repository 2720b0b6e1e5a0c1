"""One loop for every recipe: train_and_evaluate, from config to result."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from clu import parameter_overview
from etils import epath
from jax.sharding import Mesh

from bit_jax import weights
from bit_jax.data import pipeline
from bit_jax.parallel import hosts, sharding
from bit_jax.recipe import check, resolve
from bit_jax.recipe.load import Config
from bit_jax.run import sources, start, stopping, watchdog, workdir_files
from bit_jax.run.step import TrainState, make_abstract_state, make_update_step
from bit_jax.run.upkeep import Upkeep
from bit_jax.storage import digest, remote
from bit_jax.writers import writer


class _Waits:
  """Iterates over batches and adds up the time spent waiting for them."""

  def __init__(self, batches: Iterator[pipeline.Batch]):
    self._batches = batches
    self._since = time.monotonic()
    self._waited_secs = 0.0

  def __iter__(self) -> Iterator[pipeline.Batch]:
    while True:
      since = time.monotonic()
      try:
        batch = next(self._batches)
      except StopIteration:
        return
      self._waited_secs += time.monotonic() - since
      yield batch

  def fraction(self) -> float:
    """Returns the share of time spent waiting since the last call."""
    now = time.monotonic()
    share = self._waited_secs / max(now - self._since, 1e-9)
    self._since, self._waited_secs = now, 0.0
    return share


class _InFlight(NamedTuple):
  """A step that runs on the devices.

  Attributes:
    step: its number.
    metrics: of the update step, still to be read.
    must_stop: whether a host was asked to stop before it, still to be read.
  """

  step: int
  metrics: Any
  must_stop: Any


def _first_state(
  config: Config,
  folder: epath.Path,
  mesh: Mesh,
  say: Callable[[str], None],
) -> tuple[int, TrainState]:
  """Returns the step and the state to go on from: the newest saved, or new."""
  if not start.saved_steps(folder):
    return 0, start.start_anew(config, mesh)
  with start.open_checkpoints(folder, config) as checkpointer:
    return start.restore_newest(checkpointer, folder, config, mesh, say)


def _write_weights(
  workdir: epath.Path, state: TrainState, upkeep: Upkeep
) -> None:
  """Writes params.npz on host 0; all hosts must call it."""
  params = sharding.to_host(state.params, upkeep.mesh)
  batch_stats = sharding.to_host(state.batch_stats, upkeep.mesh)
  if jax.process_index() != 0:
    return
  weights.save_npz(
    workdir / "params.npz",
    weights.Weights(
      params,
      batch_stats,
      upkeep.config.model.variant,
      upkeep.data.train.class_names,
      upkeep.metadata["preprocess"],
      upkeep.metadata["model_options"],
    ),
  )


def train_and_evaluate(
  config: Config, workdir: epath.PathLike
) -> dict[str, Any]:
  """Runs a recipe from its config to its result, resuming where it stopped.

  Args:
    config: of `configs/`; rules are resolved here, when the data is known.
    workdir: made if missing, once all that can be checked was good. At the end
      it holds config.json, metrics.jsonl, TensorBoard events, checkpoints/,
      parameters.txt, params.npz and result.json.

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
  remote.check(workdir)
  mesh = sharding.make_mesh()
  check.check(config, mesh)

  data = sources.load(
    config.data, seed=config.seed, held_out=workdir_files.read_held_out(workdir)
  )
  probes = sources.load_fewshot_sets(config.eval.fewshot, config.data.dir)
  config = resolve.resolve(config, sources.dataset_info(data))
  data, probes = sources.hold(data, probes, config)
  total_steps = config.resolved.total_steps
  workdir_files.check_unchanged(workdir, config)
  finished = workdir_files.read_result(workdir)
  if finished and finished["step"] == total_steps:
    say(f"{workdir} is finished: {workdir_files.summary(finished)}")
    return finished
  hosts.check_same(workdir_files.comparable(config))
  say(workdir_files.describe(config, data, mesh))
  data_secs = time.monotonic() - started

  with contextlib.ExitStack() as stack:
    stop = stack.enter_context(stopping.StopRequest())
    dog = stack.enter_context(
      watchdog.Watchdog(
        config.watchdog_mins,
        host=jax.process_index(),
        num_hosts=jax.process_count(),
        folder=workdir / "hosts",
      )
    )
    digest.compile_ahead(make_abstract_state(config, mesh))
    # Nothing is written before all that can be wrong at start was tried.
    folder = workdir / "checkpoints"
    start_step, state = _first_state(config, folder, mesh, say)
    update_step = make_update_step(config, mesh)
    workdir_files.claim(workdir, config, data.held_out, write=is_lead)
    hosts.check_workdir(workdir)
    upkeep = Upkeep(
      config=config,
      workdir=workdir,
      mesh=mesh,
      data=data,
      probes=probes,
      checkpointer=stack.enter_context(start.open_checkpoints(folder, config)),
      metrics_writer=stack.enter_context(
        writer.create(
          workdir,
          total_steps=total_steps,
          start_step=start_step,
          batch_size=config.input.batch_size,
          is_lead=is_lead,
        )
      ),
      stop=stop,
      watchdog=dog,
    )
    if start_step:
      say(f"resumed from step {start_step} of {folder}")
    elif is_lead:
      overview = parameter_overview.get_parameter_overview(
        state.params, include_stats=False
      )
      (workdir / "parameters.txt").write_text(overview + "\n")
      say(workdir_files.describe_params(state.params))
    state_secs = time.monotonic() - started - data_secs
    batches = stack.enter_context(
      pipeline.train_batches(
        data.train,
        resolve.train_preprocess(config),
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
      scalars = upkeep.check(step, metrics)
      if step == start_step + 1:
        secs = time.monotonic() - started
        say(
          f"first step after {secs:.1f} s: data {data_secs:.1f}, state "
          f"{state_secs:.1f}, compiling and running the step "
          f"{secs - data_secs - state_secs:.1f}"
        )
      if step % config.log_every_steps == 0 or step in (1, total_steps):
        scalars["input_wait"] = waits.fraction()
        upkeep.metrics_writer.write_scalars(
          step, {f"train/{k}": v for k, v in scalars.items()}
        )
      else:
        upkeep.metrics_writer.progress(step)

    if upkeep.is_due(start_step, config.eval.every_steps):
      # It comes after the save it was cut off.
      upkeep.evaluate(start_step, state, saved=True)
    last, must_stop = None, False
    for step, batch in enumerate(waits, start_step + 1):
      state, metrics = update_step(state, batch)
      this = _InFlight(step, metrics, upkeep.agree(bool(stop.received)))
      # Two steps in flight: this one is queued while the last one is read.
      if last:
        log(last.step, last.metrics)
        must_stop = bool(last.must_stop)
      last = this
      save = upkeep.is_due(step, config.checkpoint.every_steps)
      save = save or must_stop or step == total_steps
      evaluate_now = upkeep.is_due(step, config.eval.every_steps)
      if save or evaluate_now:
        log(step, metrics)  # Only a state whose numbers are finite is saved.
        last, must_stop = None, must_stop or bool(this.must_stop)
      if save or must_stop:
        upkeep.save(step, state)
      if must_stop:
        raise upkeep.stopped(step)
      if evaluate_now:
        upkeep.evaluate(step, state, saved=save)
    result = {
      "step": total_steps,
      **upkeep.evaluate(total_steps, state, saved=True),
    }
    upkeep.checkpointer.wait()

  _write_weights(workdir, state, upkeep)
  if is_lead:
    workdir_files.write_result(workdir, result)
  say(f"{workdir}: {workdir_files.summary(result)}")
  return result
