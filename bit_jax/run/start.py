"""The start of a run: checks its config and loads all that it reads.

Nothing is written here, and nothing compiled.
"""

import dataclasses
import functools
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh

from bit_jax.data.preprocess import Preprocess
from bit_jax.objectives import named
from bit_jax.objectives.objective import Objective
from bit_jax.parallel import hosts, sharding
from bit_jax.recipe import check, resolve
from bit_jax.recipe.load import Config
from bit_jax.run import describe, fixed, sources, workdir_files
from bit_jax.run.step import StepSpec
from bit_jax.run.workdir_files import RunFiles
from bit_jax.storage import remote


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
class Run:
  """A run whose config is checked and whose data is open.

  Attributes:
    config: Resolved.
    workdir: Work directory; need not exist.
    files: The config, and the files of the work directory.
    data: The training and evaluation sources.
    fewshot_sets: Data sets for few-shot linear evaluation, by name.
    train_preprocess: Preprocessing of training.
    eval_preprocess: Preprocessing of evaluation.
    spec: What the jitted functions depend on.
    fixed: Arrays that the objective reads and never changes.
    result: The result of a run that is finished already, else None.
    clock: Measures the start.
    log: Prints a line on host 0.
  """

  config: Config
  workdir: epath.Path
  files: RunFiles
  data: sources.RunData
  fewshot_sets: Mapping[str, sources.FewshotSet]
  train_preprocess: Preprocess
  eval_preprocess: Preprocess
  spec: StepSpec
  fixed: Any
  result: dict[str, Any] | None
  clock: Clock
  log: Callable[[str], None]

  @property
  def is_lead(self) -> bool:
    """True on the host that writes."""
    return jax.process_index() == 0


def load(
  config: Config,
  workdir: epath.PathLike,
  *,
  objective: Objective | None = None,
  fixed_arrays: Any = (),
  data: sources.RunData | None = None,
) -> Run:
  """Checks a config, opens its data and resolves its rules.

  Args:
    config: A config of `configs/`, not resolved.
    workdir: The work directory; need not exist.
    objective: Instead of the one that the config names.
    fixed_arrays: What that objective reads and never changes.
    data: Instead of the sources that the config names.

  Raises:
    InputError: The config, the data or the work directory is not usable.
  """
  clock, workdir = Clock(), epath.Path(workdir).expanduser()
  remote.check(workdir)
  mesh = sharding.make_mesh()
  check.check(config, mesh)
  if data is None:
    data = sources.load(
      config.data,
      seed=config.seed,
      held_out=workdir_files.read_held_out(workdir),
    )
  fewshot_sets = sources.load_fewshot_sets(config.eval.fewshot, config.data.dir)
  config = resolve.resolve(config, sources.dataset_info(data))
  if objective is None:
    spec, fixed_arrays = make_spec(
      config, mesh, class_names=data.train.class_names
    )
  else:
    spec = StepSpec.of(config, mesh, objective)
    fixed_arrays = sharding.to_devices(fixed_arrays, mesh)
    config.resolved.objective = _name_of(objective)
  config.resolved.fixed_digest = fixed.digest_of(fixed_arrays)
  data, fewshot_sets = sources.cache_in_memory(data, fewshot_sets, config)
  run = Run(
    config=config,
    workdir=workdir,
    files=RunFiles(workdir, config),
    data=data,
    fewshot_sets=fewshot_sets,
    train_preprocess=resolve.train_preprocess(config),
    eval_preprocess=resolve.eval_preprocess(config),
    spec=spec,
    fixed=fixed_arrays,
    result=workdir_files.read_result(workdir),
    clock=clock,
    log=functools.partial(print, flush=True)
    if jax.process_index() == 0
    else lambda *_: None,
  )
  run.files.check_unchanged()
  if run.result and run.result["step"] == config.resolved.total_steps:
    return run
  hosts.check_same(run.files.comparable())
  run.log(describe.describe(config, data, mesh))
  clock.mark("data")
  return dataclasses.replace(run, result=None)


def _name_of(objective: Objective) -> str:
  """Returns a short text that any of an objective's static values changes."""
  text = hashlib.sha256(repr(objective).encode()).hexdigest()
  return f"{type(objective).__name__}, {text[:8]}"


def make_spec(
  config: Config,
  mesh: Mesh,
  *,
  class_names: Sequence[str] = (),
  abstract: bool = False,
) -> tuple[StepSpec, Any]:
  """Returns what the step of a resolved config depends on, and fixed arrays.

  Args:
    config: Resolved.
    mesh: The devices of the step.
    class_names: Names of the classes of the training set; () if unknown.
    abstract: True for devices that only compile; the fixed arrays are then
      jax.ShapeDtypeStruct.

  Raises:
    InputError: The fixed weights that the config names cannot be used.
  """
  loaded = fixed.load(config, class_names, mesh, abstract=abstract)
  objective = named.make(config, loaded.networks)
  return StepSpec.of(config, mesh, objective), loaded.arrays
