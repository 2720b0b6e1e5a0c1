"""One loop for every recipe: train_and_evaluate, from config to result."""

import contextlib
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
  evaluate,
  fewshot,
  parallel,
  recipe,
  run_config,
  validate,
  weights,
  writer,
)
from bit_jax.data import pipeline, run_data
from bit_jax.errors import InputError
from bit_jax.recipe import Config
from bit_jax.step import TrainState, make_init, make_model, make_update_step


def _start_state(
  config: Config,
  mesh: Mesh,
  checkpointer: checkpoint.Checkpointer | None,
  latest: int | None,
) -> TrainState:
  """Resumes, else carries weights over, else starts from random ones."""
  init, sharding = make_init(config, mesh), parallel.replicated(mesh)
  if checkpointer is not None and latest is not None:
    abstract = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
      jax.eval_shape(init, config.seed),
    )
    return checkpointer.restore(latest, abstract)
  # A bad file is found before anything is compiled.
  path = config.init.checkpoint
  loaded = weights.load(path) if path else None
  if loaded is not None:
    weights.check_options(loaded, config.model)
  state = init(config.seed)
  if loaded is None:
    return state
  params = weights.with_head(loaded, state.params, keep=config.init.keep_head)
  state = state.replace(params=jax.device_put(params, sharding))
  if loaded.batch_stats and state.batch_stats:
    stats = jax.device_put(loaded.batch_stats, sharding)
    state = state.replace(batch_stats=stats)
  return state


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


def _evaluate_all(
  config: Config,
  state: TrainState,
  data: run_data.RunData,
  probes: Mapping[str, run_data.Probe],
  mesh: Mesh,
) -> dict[str, float]:
  """Returns all metrics `eval/NAME/...` of a state."""
  eval_step = evaluate.make_eval_step(config, mesh)
  scalars = {}
  for name, source in data.evals.items():
    values = evaluate.evaluate(
      eval_step,
      state.variables,
      source,
      recipe.eval_preprocess(config),
      batch_size=config.eval.batch_size,
      mesh=mesh,
      num_threads=config.input.num_threads,
    )
    scalars |= {f"eval/{name}/{k}": v for k, v in values.items()}
  for name, probe in probes.items():
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
    # Nothing is written before all that can be wrong at start was tried.
    folder = workdir / "checkpoints"
    latest = checkpoint.latest_step(folder)
    if latest is None:
      start_step, checkpointer = 0, None
    else:
      start_step = latest
      checkpointer = stack.enter_context(
        checkpoint.Checkpointer(folder, keep=config.checkpoint.keep)
      )
      saved = checkpointer.metadata(latest)
      run_config.check_checkpoint(folder / str(latest), saved, config)
    if start_step > total_steps:
      raise InputError(
        f"{folder} is at step {start_step}, further than the {total_steps} "
        f"steps of this config"
      )
    state = _start_state(config, mesh, checkpointer, latest)
    update_step = make_update_step(config, mesh)
    run_config.claim(workdir, config, data.held_out, write=is_lead)
    checkpointer = checkpointer or stack.enter_context(
      checkpoint.Checkpointer(folder, keep=config.checkpoint.keep)
    )
    metadata = run_config.checkpoint_metadata(
      config, data.train.class_names, recipe.eval_preprocess(config)
    )
    metrics_writer = writer.create(
      workdir,
      total_steps=total_steps,
      start_step=start_step,
      batch_size=config.input.batch_size,
      is_lead=is_lead,
    )
    stack.callback(metrics_writer.close)
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
      """Waits for a step, checks its numbers and writes them."""
      scalars = {k: float(v) for k, v in jax.device_get(metrics).items()}
      if not all(map(math.isfinite, scalars.values())):
        checkpointer.wait()
      _check_finite(scalars, step, workdir)
      if step == start_step + 1:
        secs = time.monotonic() - started
        say(
          f"first step after {secs:.1f} s: data {data_secs:.1f}, state "
          f"{state_secs:.1f}, compiling and running the step "
          f"{secs - data_secs - state_secs:.1f}"
        )
      if step % config.log_every_steps == 0 or step in (1, total_steps):
        scalars["input_wait"] = waits.fraction()
        metrics_writer.write_scalars(
          step, {f"train/{k}": v for k, v in scalars.items()}
        )

    def evaluate_and_write(step):
      scalars = _evaluate_all(config, state, data, probes, mesh)
      _check_finite(scalars, step, workdir)
      if scalars:
        metrics_writer.write_scalars(step, scalars)
      return scalars

    def due(step, every):
      return 0 < step < total_steps and every > 0 and step % every == 0

    if due(start_step, config.eval.every_steps):
      evaluate_and_write(start_step)  # It comes after the save it was cut off.
    running = None
    for step, batch in enumerate(waits, start_step + 1):
      state, metrics = update_step(state, batch)
      # Two steps in flight: this one is queued while the last one is read.
      if running:
        log(*running)
      running = step, metrics
      save = due(step, config.checkpoint.every_steps)
      evaluate_now = due(step, config.eval.every_steps)
      if save or evaluate_now or step == total_steps:
        log(*running)  # Only a state whose numbers are finite is saved.
        running = None
      if save or step == total_steps:
        checkpointer.save(step, state, metadata)
      if evaluate_now:
        evaluate_and_write(step)
    result = {"step": total_steps, **evaluate_and_write(total_steps)}
    checkpointer.wait()

  if is_lead:
    weights.save_npz(
      workdir / "params.npz",
      weights.Weights(
        jax.device_get(state.params),
        jax.device_get(state.batch_stats),
        config.model.variant,
        data.train.class_names,
        metadata["preprocess"],
        metadata["model_options"],
      ),
    )
    run_config.write_result(workdir, result)
  say(f"{workdir}: {run_config.summary(result)}")
  return result
