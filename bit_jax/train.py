"""One loop for every recipe: state, update step, train_and_evaluate."""

import functools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax
from clu import parameter_overview
from etils import epath
from flax import struct
from jax.sharding import Mesh

from bit_jax import (
  checkpoint,
  evaluate,
  losses,
  models,
  optim,
  parallel,
  recipe,
  run_config,
  weights,
  writer,
)
from bit_jax.data import pipeline, run_data
from bit_jax.errors import InputError
from bit_jax.recipe import Config


class TrainState(struct.PyTreeNode):
  """All that changes from step to step, and the key that does not.

  Attributes:
    step: int32 scalar, finished updates.
    params: nested dict of float32 arrays.
    opt_state: of Optax.
    rng: uint32[2], key data; step t draws from it folded with t.
  """

  step: Any
  params: Any
  opt_state: Any
  rng: Any


def _step_config(config) -> Config:
  """Returns the part of a resolved config that the update step depends on."""
  keys = ("model", "loss", "optim", "schedule", "hyperrule", "resolved")
  part = {k: v for k, v in config.to_dict().items() if k in keys}
  # What changes no number of the step: runs that differ in it alone share one
  # compiled step.
  for key in ("train_examples", "data_fingerprint", "total_steps"):
    del part["resolved"][key]
  return ml_collections.FrozenConfigDict(part)


def _model(config) -> models.ResNetV2:
  return models.create(num_classes=config.resolved.num_classes, **config.model)


def _schedule(config) -> Callable[[Any], jax.Array]:
  r = config.resolved
  return optim.step_schedule(
    r.peak_lr,
    r.warmup_steps,
    r.decay_steps,
    config.schedule.decay_factor,
    one_late=config.hyperrule == "code",
  )


def _tx(config) -> optax.GradientTransformation:
  return optim.make_tx(
    _schedule(config),
    momentum=config.optim.momentum,
    weight_decay=config.optim.weight_decay,
    frozen=config.optim.freeze,
  )


def make_init(config: Config, mesh: Mesh) -> Callable[[Any], TrainState]:
  """Builds the jitted function from a seed to a replicated random state."""
  return _make_init(_step_config(config), mesh)


@functools.lru_cache(maxsize=8)
def _make_init(config, mesh):
  model, tx = _model(config), _tx(config)

  def init(seed):
    rng = jax.random.key(seed)
    params = models.init_params(
      model, jax.random.fold_in(rng, 0), config.resolved.crop_px
    )
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      opt_state=tx.init(params),
      rng=jax.random.key_data(jax.random.fold_in(rng, 1)),
    )

  return jax.jit(init, out_shardings=parallel.replicated(mesh))


def make_update_step(
  config: Config, mesh: Mesh
) -> Callable[[TrainState, pipeline.Batch], tuple[TrainState, Any]]:
  """Builds the jitted function (state, batch) -> (state, metrics).

  Args:
    config: a resolved one. Configs with the same model, loss, optimiser and
      numbers give the same function, so that runs in one process share the
      compiled step.
    mesh: batches are split over it.

  Returns:
    A function that takes a state, whose memory it reuses, and a batch of
    `pipeline.train_batches`, and returns the next state and float32 scalars:
    `loss` (mean over the batch), `grad_norm`, `learning_rate`.
  """
  return _make_update_step(_step_config(config), mesh)


@functools.lru_cache(maxsize=8)
def _make_update_step(config, mesh):
  model, tx, schedule = _model(config), _tx(config), _schedule(config)
  loss_fn = losses.LOSSES[config.loss]

  def update_step(state, batch):
    rng = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
    images = evaluate.scale_images(batch["images"])
    targets = losses.dense_targets(batch["labels"], model.num_classes)
    images, targets = losses.mixup(
      rng, images, targets, config.resolved.mixup_alpha
    )

    def mean_loss(params):
      params = optim.freeze(params, config.optim.freeze)
      logits: Any = model.apply({"params": params}, images)
      return loss_fn(logits, targets).mean()

    loss, grads = jax.value_and_grad(mean_loss)(state.params)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    metrics = {
      "loss": loss,
      "grad_norm": optax.tree.norm(grads),
      "learning_rate": schedule(state.step),
    }
    state = state.replace(
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      opt_state=opt_state,
    )
    return state, metrics

  return jax.jit(
    update_step, donate_argnums=0, out_shardings=parallel.replicated(mesh)
  )


def _start_state(config, mesh, checkpointer, latest) -> TrainState:
  """Resumes, else carries weights over, else starts from random ones."""
  init = make_init(config, mesh)
  if latest is not None:
    abstract = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(
        x.shape, x.dtype, sharding=parallel.replicated(mesh)
      ),
      jax.eval_shape(init, config.seed),
    )
    return checkpointer.restore(latest, abstract)
  # A bad file is found before anything is compiled.
  path = config.init.checkpoint
  loaded = weights.load(path) if path else None
  state = init(config.seed)
  if loaded is not None:
    params = weights.with_head(loaded, state.params, keep=config.init.keep_head)
    state = state.replace(
      params=jax.device_put(params, parallel.replicated(mesh))
    )
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


def train_and_evaluate(
  config: Config, workdir: epath.PathLike
) -> dict[str, Any]:
  """Runs a recipe from its config to its result, resuming where it stopped.

  Args:
    config: of `configs/`; rules are resolved here, when the data is known.
    workdir: made if missing; DESIGN.md says what it holds at the end.

  Returns:
    What result.json holds: `step`, and `eval/NAME/accuracy`,
    `.../top5_accuracy` and `.../loss` for each evaluation split.

  Raises:
    InputError: the config, the data, a checkpoint or the work directory is not
      usable, or the loss is not finite; the message says what was expected.
  """
  workdir, started = epath.Path(workdir), time.monotonic()
  is_lead = jax.process_index() == 0
  say = functools.partial(print, flush=True) if is_lead else lambda *_: None
  mesh = parallel.make_mesh()
  run_config.check(config)
  parallel.check_batch_size(
    config.input.batch_size, mesh, "config.input.batch_size"
  )

  data = run_data.load(
    config.data, seed=config.seed, held_out=run_config.read_held_out(workdir)
  )
  config = recipe.resolve(config, recipe.DataFacts.of(data.train))
  train_preprocess = recipe.train_preprocess(config)
  eval_preprocess = recipe.eval_preprocess(config)
  total_steps = config.resolved.total_steps
  run_config.claim(workdir, config, data.held_out, write=is_lead)
  finished = run_config.read_result(workdir)
  if finished and finished["step"] == total_steps:
    say(f"{workdir} is finished: {run_config.summary(finished)}")
    return finished
  say(run_config.describe(config, data, mesh))
  data_ready = time.monotonic()

  checkpointer = checkpoint.Checkpointer(
    workdir / "checkpoints", keep=config.checkpoint.keep
  )
  start_step = checkpointer.latest_step()
  state = _start_state(config, mesh, checkpointer, start_step)
  if start_step:
    say(f"resumed from step {start_step} of {workdir / 'checkpoints'}")
  elif is_lead:
    overview = parameter_overview.get_parameter_overview(
      state.params, include_stats=False
    )
    (workdir / "parameters.txt").write_text(overview + "\n")
    say(run_config.describe_params(state.params))
  start_step = start_step or 0
  update_step = make_update_step(config, mesh)
  eval_step = evaluate.make_eval_step(config, mesh)
  metadata = run_config.checkpoint_metadata(
    config, data.train.class_names, eval_preprocess
  )
  metrics_writer = writer.create(
    workdir,
    total_steps=total_steps,
    start_step=start_step,
    batch_size=config.input.batch_size,
    is_lead=is_lead,
  )
  state_ready = time.monotonic()

  def evaluate_all(step):
    scalars = {}
    for name, source in data.evals.items():
      values = evaluate.evaluate(
        eval_step,
        state.params,
        source,
        eval_preprocess,
        batch_size=config.eval.batch_size,
        mesh=mesh,
        num_threads=config.input.num_threads,
      )
      scalars |= {f"eval/{name}/{k}": v for k, v in values.items()}
    if scalars:
      metrics_writer.write_scalars(step, scalars)
    return scalars

  in_flight = []

  def read_oldest():
    step, metrics = in_flight.pop(0)
    scalars = {k: float(v) for k, v in jax.device_get(metrics).items()}
    if step == start_step + 1:
      now = time.monotonic()
      say(
        f"first step after {now - started:.1f} s: data "
        f"{data_ready - started:.1f}, state {state_ready - data_ready:.1f}, "
        f"compiling and running the step {now - state_ready:.1f}"
      )
    for key in ("loss", "grad_norm"):
      if not math.isfinite(scalars[key]):
        checkpointer.wait()
        raise InputError(
          f"{key} is {scalars[key]} at step {step}; the run has stopped, the "
          f"last good checkpoint is "
          f"{checkpoint.find(workdir / 'checkpoints') or 'none yet'}. A lower "
          f"config.optim.lr or a longer warm-up may help"
        )
    if step % config.log_every_steps == 0 or step in (1, total_steps):
      scalars["input_wait"] = waits.fraction()
      metrics_writer.write_scalars(
        step, {f"train/{k}": v for k, v in scalars.items()}
      )

  def due(step, every):
    return every > 0 and step % every == 0 and step < total_steps

  try:
    with pipeline.train_batches(
      data.train,
      train_preprocess,
      batch_size=config.input.batch_size,
      seed=config.seed,
      start_step=start_step,
      total_steps=total_steps,
      mesh=mesh,
      num_threads=config.input.num_threads,
    ) as batches:
      waits = _Waits(batches)
      for step, batch in enumerate(waits, start_step + 1):
        state, metrics = update_step(state, batch)
        in_flight.append((step, metrics))
        if len(in_flight) > 1:
          read_oldest()
        save = due(step, config.checkpoint.every_steps)
        if save or due(step, config.eval.every_steps):
          # No state is saved before its own loss is known to be finite.
          while in_flight:
            read_oldest()
        if save:
          checkpointer.save(step, state, metadata)
        if due(step, config.eval.every_steps):
          evaluate_all(step)
      while in_flight:
        read_oldest()

    if start_step < total_steps:
      checkpointer.save(total_steps, state, metadata)
    result = {"step": total_steps, **evaluate_all(total_steps)}
  finally:
    checkpointer.close()
    metrics_writer.close()
  if is_lead:
    weights.save_npz(
      workdir / "params.npz",
      weights.Weights(
        jax.device_get(state.params),
        {},
        config.model.variant,
        data.train.class_names,
        metadata["preprocess"],
      ),
    )
    run_config.write_result(workdir, result)
  say(f"{workdir}: {run_config.summary(result)}")
  return result
