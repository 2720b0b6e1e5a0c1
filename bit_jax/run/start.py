"""The start of a run: checks its config and loads all that it reads.

Nothing is written here.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh

from bit_jax import models, progress
from bit_jax.data.preprocess import Preprocess
from bit_jax.data.sets import own_folders
from bit_jax.data.sets.folder import HeldOutGoneError
from bit_jax.data.source import Source
from bit_jax.errors import InputError
from bit_jax.objectives import named, naming
from bit_jax.objectives.objective import Objective
from bit_jax.parallel import hosts, sharding
from bit_jax.recipe import check, network, resolve
from bit_jax.recipe import load as load_config
from bit_jax.recipe.load import Config
from bit_jax.run import best, describe, fixed, sources, workdir_files
from bit_jax.run.step import StepSpec, needs_whole_batch
from bit_jax.run.workdir_files import RunFiles
from bit_jax.storage import checkpoint, remote, user_paths

# What the objective adds to a resolved config.
_OF_THE_OBJECTIVE = (
  "resolved.objective",
  "resolved.fixed_digest",
  "resolved.accum_steps",
)

# (spec in one part, resolved config, fixed arrays, log) -> number of parts, as
# `preflight.parts.choose`.
ChooseParts = Callable[[StepSpec, Config, Any, Callable[[str], None]], int]


class Clock:
  """Measures the parts of the time to the first step, in seconds."""

  def __init__(self):
    self._started = self._last = time.monotonic()
    self._parts: list[str] = []

  def mark(self, part: str) -> None:
    """Ends a part of the start, which began when the last one ended."""
    now = time.monotonic()
    self._parts.append(f"{part} {now - self._last:.1f}")
    self._last = now

  def __str__(self) -> str:
    secs = self._last - self._started
    return f"first step after {secs:.1f} s: {', '.join(self._parts)}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
  """A run whose config is checked and whose data is open.

  Attributes:
    config: Resolved.
    workdir: Work directory; need not exist.
    mesh: All devices.
    data: The training and evaluation sources.
    fewshot_sets: Data sets for few-shot linear evaluation, by name.
    train_preprocess: Preprocessing of training.
    eval_preprocess: Preprocessing of evaluation.
    result: The result of a run that is finished already, else None.
    clock: Measures the start.
    log: Prints a line on host 0.
  """

  config: Config
  workdir: epath.Path
  mesh: Mesh
  data: sources.RunData
  fewshot_sets: Mapping[str, sources.FewshotSet]
  train_preprocess: Preprocess
  eval_preprocess: Preprocess
  result: dict[str, Any] | None
  clock: Clock
  log: Callable[[str], None]

  @property
  def is_lead(self) -> bool:
    """True on the host that writes."""
    return jax.process_index() == 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run(Inputs):
  """A run that knows what it learns; nothing is written yet.

  Attributes:
    files: The config, and the files of the work directory.
    spec: What the jitted functions depend on.
    fixed: Arrays that the objective reads and never changes.
  """

  files: RunFiles
  spec: StepSpec
  fixed: Any

  def metadata(self, params: Any) -> dict[str, Any]:
    """Returns the JSON object that is saved with parameters."""
    return self.files.metadata(
      self.data.train.class_names,
      self.eval_preprocess,
      models.extra_heads(params),
    )


def load(
  config: Config,
  workdir: epath.PathLike,
  *,
  data: sources.RunData | None = None,
  own_network: bool = False,
) -> Inputs:
  """Checks a config, opens its data and resolves its rules.

  Args:
    config: A config of `configs/`, not resolved.
    workdir: The work directory; need not exist.
    data: Instead of the sources that the config names.
    own_network: True if the objective brings a network that the config may not
      describe.

  Raises:
    InputError: The config, the data or the work directory is not usable.
  """
  clock, workdir = Clock(), epath.Path(user_paths.expand(workdir))
  remote.check(workdir)
  config = load_config.expand_paths(config)
  mesh = sharding.make_mesh()
  # Before the data is read, and before weights are downloaded.
  config = network.resolve(
    config,
    stored=workdir_files.read_config(workdir),
    check=not own_network,
  )
  check.check(config, mesh)
  log = _print_on_lead
  if data is None:
    own_folders.check_work_dir(config.data.name, str(workdir))
    with progress.activity(f"opening {config.data.name}"):
      data = _load_data(config, workdir, log)
  best.check(config, data.evals)
  sources.check_classes(data)
  with progress.activity(f"opening {config.eval.fewshot}"):
    fewshot_sets = sources.load_fewshot_sets(
      config.eval.fewshot,
      config.data.dir,
      nested_classes=config.data.nested_classes,
      skip_bad=config.data.skip_bad,
    )
  config = resolve.resolve(config, sources.dataset_info(data))
  data, fewshot_sets = sources.cache_in_memory(data, fewshot_sets, config)
  # What the objective adds to the config is compared once it is known: a run
  # that is finished needs no teacher.
  _keep_last_step(config, workdir, log)
  if not config.resolved.accum_steps:
    # Another number would give other bits.
    config.resolved.accum_steps = workdir_files.read_accum_steps(
      workdir, config.input.batch_size // mesh.size
    )
  RunFiles(workdir, config).check_unchanged(but=_OF_THE_OBJECTIVE)
  result = workdir_files.read_result(workdir)
  wanted = config.resolved.total_steps
  if result and result["step"] != wanted and not result.get("stopped_early"):
    result = None
  return Inputs(
    config=config,
    workdir=workdir,
    mesh=mesh,
    data=data,
    fewshot_sets=fewshot_sets,
    train_preprocess=resolve.train_preprocess(config),
    eval_preprocess=resolve.eval_preprocess(config),
    result=result,
    clock=clock,
    log=log,
  )


def _print_on_lead(text: str) -> None:
  if jax.process_index() == 0:
    progress.say(text)


def _load_data(
  config: Config, workdir: epath.Path, log: Callable[[str], None]
) -> sources.RunData:
  """Loads the sources of a config; with resume_changed, of what is left."""
  held_out = workdir_files.read_held_out(workdir)
  load = functools.partial(sources.load, config.data, seed=config.seed)
  try:
    return load(held_out=held_out)
  except HeldOutGoneError as error:
    if not config.resume_changed:
      raise
    # The others stay held out: new ones would be images that were trained on.
    left = [file for file in held_out if file not in error.files]
    log(
      f"gone since the run began, and no longer evaluated on: "
      f"{len(error.files)} of {len(held_out)} held-out images, such as "
      f"{min(error.files)}"
      + ("" if left else "; others, seen in training, are held out instead")
    )
    return load(held_out=left)


def _keep_last_step(
  config: Config, workdir: epath.Path, log: Callable[[str], None]
) -> None:
  """Lets a run end at its newest checkpoint if its rules now end before it.

  With fewer examples, an epoch has fewer steps. Without this, resume_changed
  would lead nowhere after the end of a run.
  """
  # A number of steps that the user gave is compared with the checkpoint later.
  if not config.resume_changed or config.total_steps:
    return
  newest = next(iter(checkpoint.steps(workdir / "checkpoints")), 0)
  if newest > config.resolved.total_steps:
    log(
      f"config.schedule gives {config.resolved.total_steps} steps now, and the "
      f"newest checkpoint is at step {newest}, which stays the last one"
    )
    config.resolved.total_steps = newest


def is_finished(
  inputs: Inputs, objective: Objective | None = None, arrays: Any = ()
) -> bool:
  """Returns True if the run has its result and nothing has changed since.

  Fixed weights that are gone do not stop a run that no longer needs them. With
  resume_changed, a result of before a change is no result: the last state is
  evaluated again, if its checkpoint is still there.

  Raises:
    InputError: The objective or its fixed weights are others now.
  """
  if not inputs.result:
    return False
  try:
    _identify(inputs, objective, arrays)
  except InputError as error:
    inputs.log(f"not compared: {error}")
    return True
  changes = RunFiles(inputs.workdir, inputs.config).check_unchanged()
  if not changes:
    return True
  if inputs.result["step"] in checkpoint.steps(inputs.workdir / "checkpoints"):
    inputs.log(
      f"{inputs.workdir} was finished before it was changed; its last state is "
      f"evaluated again"
    )
    return False
  inputs.log(
    f"{inputs.workdir} was finished before it was changed "
    f"({'; '.join(changes)}), and its last checkpoint is gone: this is the "
    f"result of before the changes"
  )
  return True


def load_objective(
  inputs: Inputs,
  objective: Objective | None = None,
  arrays: Any = (),
  choose_parts: ChooseParts | None = None,
) -> Run:
  """Makes the objective, and compares the whole run with what is there.

  All hosts must call it. The fixed arrays are on the devices afterwards.

  Args:
    inputs: The run, loaded.
    objective: Instead of the one that the config names.
    arrays: What that objective reads and never changes, on the host.
    choose_parts: Chooses config.optim.accum_steps where the config does not.

  Raises:
    InputError: The fixed weights cannot be used, the work directory belongs to
      another run, hosts differ, or the step does not fit.
  """
  config, mesh = inputs.config, inputs.mesh
  with progress.activity("making the objective"):
    objective, loaded = _identify(inputs, objective, arrays)
  spec = StepSpec.of(config, mesh, objective)
  _check_objective(spec, config, inputs.data.train)
  sources.check_shots(inputs.fewshot_sets, config.eval.fewshot_shots)
  hosts.check_same(RunFiles(inputs.workdir, config).comparable())
  inputs.log(describe.describe(config, inputs.data, mesh))
  # Not before all hosts have compared them: JAX would end in a traceback.
  if loaded is None:
    placed = sharding.to_devices(arrays, mesh)
  else:
    placed = fixed.place(loaded, mesh)
  if not config.resolved.accum_steps:
    config.resolved.accum_steps = _choose_parts(
      choose_parts, spec, config, placed, inputs.log
    )
    spec = StepSpec.of(config, mesh, objective)
  files = RunFiles(inputs.workdir, config)
  changes = files.check_unchanged()
  if changes:
    inputs.log(f"changed since the run began: {'; '.join(changes)}")
    if more := files.about_more_steps():
      inputs.log(more)
  inputs.clock.mark("data")
  return Run(**vars(inputs), files=files, spec=spec, fixed=placed)


def _identify(
  inputs: Inputs, objective: Objective | None, arrays: Any
) -> tuple[Objective, fixed.Fixed | None]:
  """Returns objective and fixed weights; stores what they are in the config."""
  config, loaded = inputs.config, None
  if objective is None:
    if jax.tree.leaves(arrays):
      raise ValueError("fixed arrays without an objective that reads them")
    loaded = fixed.load(config, inputs.data.train.class_names)
    objective, arrays = _make(config, loaded), loaded.variables
  else:
    config.resolved.objective = naming.name_of(objective)
  config.resolved.fixed_digest = fixed.digest(arrays)
  return objective, loaded


def _choose_parts(choose: ChooseParts | None, *args: Any) -> int:
  """Returns host 0's choice, on all hosts; 1 without a function to choose."""
  if not choose:
    return 1
  parts, error = 0, None
  try:
    parts = choose(*args)
  except InputError as e:
    error = e
  # All hosts must get here, also those where nothing fits.
  parts = hosts.number_of_lead(parts)
  if not parts or error:
    raise error or InputError("the step does not fit on host 0")
  return parts


def _make(config: Config, loaded: fixed.Fixed) -> Objective:
  return named.OBJECTIVES[config.objective].make(config, loaded.networks)


def _check_objective(spec: StepSpec, config: Config, train: Source) -> None:
  """Raises InputError where an objective and the data do not fit."""
  batch = spec.objective.batch_spec(
    config.input.batch_size, config.resolved.crop_px
  )
  has = {field.key for field in train.fields.values()} | {"images", "index"}
  if missing := sorted(set(batch) - has):
    raise InputError(
      f"{train.name}: its examples have no {', '.join(missing)}, which the "
      f"objective {type(spec.objective).__name__} needs"
    )
  if spec.accum_steps > 1 and needs_whole_batch(spec):
    raise InputError(
      f"config.optim.accum_steps={spec.accum_steps} gives a network with batch "
      f"statistics other ones: expected 1"
    )


def make_spec(config: Config, mesh: Mesh) -> tuple[StepSpec, Any]:
  """Returns what the step of a resolved config depends on, without arrays.

  Args:
    config: Resolved.
    mesh: The devices of the step; they may be ones that only compile.

  Returns:
    The spec, and the fixed arrays of the step as jax.ShapeDtypeStruct.

  Raises:
    InputError: The fixed weights that the config names cannot be used.
  """
  loaded = fixed.load(config, abstract=True)
  spec = StepSpec.of(config, mesh, _make(config, loaded))
  return spec, fixed.place(loaded, mesh)
