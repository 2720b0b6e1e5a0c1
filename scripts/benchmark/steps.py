"""Times training and inference of bit_jax in turns with other code."""

import dataclasses
import math
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from bit_jax import models
from bit_jax.data.source import DatasetInfo
from bit_jax.errors import InputError
from bit_jax.evaluate import inference
from bit_jax.parallel import sharding
from bit_jax.preflight import aot
from bit_jax.recipe import check, load, resolve
from bit_jax.recipe.load import Config
from bit_jax.run import start, step
from scripts.benchmark import mfu
from scripts.benchmark.flags import Case

# Training examples of ILSVRC-2012, BiT-S's data; the data itself is not read.
_EXAMPLES = 1_281_167


def load_config(case: Case) -> Config:
  """Returns the config of a case before it is resolved.

  Raises:
    InputError: A value is wrong.
    UsageError: A key or an argument is unknown.
  """
  config = load.load_config(case.config, case.arguments)
  # What is measured must not depend on the memory of the machine.
  config.optim.accum_steps = max(1, config.optim.accum_steps)
  return config


def make_config(case: Case, mesh: Mesh) -> Config:
  """Returns the resolved config of a case.

  Raises:
    InputError: A value is wrong or does not suit the devices.
    UsageError: A key or an argument is unknown.
  """
  config = load_config(case)
  check.check(config, mesh)
  info = DatasetInfo(_EXAMPLES, case.classes, (375, 500))
  return resolve.resolve(config, info)


def make_spec(config: Config, mesh: Mesh) -> step.StepSpec:
  """Returns what the update step of a resolved config depends on."""
  return start.make_spec(config, mesh)[0]


def make_infer_step(config: Config, mesh: Mesh) -> inference.InferenceStep:
  """Builds the step that computes the logits of a batch, as in evaluation.

  Args:
    config: A resolved config.
    mesh: The mesh over whose devices batches and logits are split.
  """
  network = make_spec(config, mesh).objective.network
  model, prepare = inference.for_inference(network, mesh)

  def infer(variables, batch):
    return model.apply(variables, models.scale_images(batch["images"]))

  return inference.InferenceStep(
    prepare, jax.jit(infer, out_shardings=sharding.split(mesh))
  )


def make_abstract_prepared(config: Config, mesh: Mesh) -> Any:
  """Returns the prepared variables of inference as jax.ShapeDtypeStruct."""
  spec = make_spec(config, mesh)
  return inference.abstract_prepared(
    spec.objective.network, step.make_abstract_state(spec).variables, mesh
  )


def forward_flops(config: Config) -> int:
  """Returns the model FLOPs of a forward pass of one batch."""
  model: Any = models.create(
    num_classes=config.resolved.num_classes, **config.model
  )
  px, rows = config.resolved.crop_px, config.input.batch_size
  image = jax.ShapeDtypeStruct((1, px, px, 3), np.float32)
  variables = jax.eval_shape(model.init, jax.random.key(0), image)
  return rows * mfu.matmul_flops(model.apply, variables, image)


def make_batch(config: Config, mesh: Mesh) -> dict[str, jax.Array]:
  """Returns a batch of noise on the devices, the same on every call."""
  rng, batch = np.random.default_rng(0), {}
  for key, x in aot.abstract_batch(config, make_spec(config, mesh)).items():
    limits = {"images": 256, "labels": config.resolved.num_classes}
    values = rng.integers(0, limits.get(key, 2**31), x.shape).astype(x.dtype)
    batch[key] = jax.device_put(values, x.sharding)
  return batch


class DoesNotFitError(InputError):
  """The memory of a device does not suffice."""


class Subject(Protocol):
  """An implementation to time.

  Attributes:
    name: Name in tables.
    compile_secs: Time spent on compilation; 0 if nothing was compiled.
  """

  name: str
  compile_secs: float

  def run(self, steps: int) -> None:
    """Runs some steps and waits until they are done."""

  def memory(self) -> dict[str, Any]:
    """Returns {kind of memory: bytes}."""
    ...


class Ours:
  """The update step or the inference of bit_jax, on a batch on the devices."""

  name = "bit_jax"

  def __init__(self, config: Config, mesh: Mesh, *, train: bool):
    """Compiles the step and runs it twice.

    Args:
      config: A resolved config.
      mesh: The mesh of the devices to use.
      train: Times the update step; False times inference.

    Raises:
      DoesNotFitError: The compiler refuses for lack of memory.
    """
    spec = make_spec(config, mesh)
    state: Any = step.make_init(spec)(0)
    if train:
      self._function, self._state = step.make_update_step(spec), state
    else:
      infer = make_infer_step(config, mesh)
      self._function = infer.run
      self._state = infer.prepare(state.variables)
    # Inference needs no momentum, so its memory is freed.
    del state
    self._train, self._batch = train, make_batch(config, mesh)
    self._device = mesh.devices.flat[0]
    parts = config.optim.accum_steps if train else 1
    self._compiled, self.cost = aot.compile_function(
      self._function, self._state, self._batch, accum_steps=parts
    )
    if self._compiled is None:
      raise DoesNotFitError(f"does not fit: {self.cost.refusal}")
    self.compile_secs = self.cost.compile_secs
    self.run(2)
    self._rss_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
      1 if sys.platform == "darwin" else 1024
    )

  def run(self, steps: int) -> None:
    """Runs some steps and waits until they are done."""
    results = []
    for _ in range(steps):
      result = self._compiled(self._state, self._batch)
      if self._train:
        # The step donates the memory of the old state.
        self._state, result = result
      results.append(result)
    jax.block_until_ready((self._state, results))

  def memory(self) -> dict[str, Any]:
    """Returns the compiler's sum and, if known, the device's peak or RSS."""
    found = {"compiler_bytes": self.cost.total_bytes}
    stats = self._device.memory_stats() or {}
    if peak := stats.get("peak_bytes_in_use"):
      found["peak_bytes"] = peak
    if self._device.platform == "cpu":
      # This peak was read before peers were loaded into the process.
      found["rss_bytes"] = self._rss_bytes
    return found


def interleave(
  subjects: Sequence[Subject],
  *,
  rounds: int,
  round_secs: float,
  clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
  """Times subjects in turns, so that load on the machine affects all alike.

  Args:
    subjects: The subjects, warmed up.
    rounds: Turns of each subject.
    round_secs: Least duration of a turn; a turn has at least one step.
    clock: Returns the time in seconds.

  Returns:
    {name: seconds of a step in each round}.
  """

  def timed(subject, steps):
    start = clock()
    subject.run(steps)
    return clock() - start

  steps = {
    s.name: max(1, math.ceil(round_secs / max(timed(s, 1), 1e-9)))
    for s in subjects
  }
  found: dict[str, list[float]] = {s.name: [] for s in subjects}
  for _ in range(rounds):
    for s in subjects:
      found[s.name].append(timed(s, steps[s.name]) / steps[s.name])
  return found


def summary(numbers: Iterable[float]) -> dict[str, Any]:
  """Returns the median, min, max and all of some numbers, as a dict."""
  rounds = list(numbers)
  return {
    "median": statistics.median(rounds),
    "min": min(rounds),
    "max": max(rounds),
    "rounds": rounds,
  }


def report(
  subjects: Sequence[Subject], secs: Mapping[str, list[float]], *, batch: int
) -> list[dict[str, Any]]:
  """Returns the results of each subject, compared with the first one.

  Args:
    subjects: The timed subjects.
    secs: The result of `interleave`.
    batch: Images per step.
  """
  found, reference = [], secs[subjects[0].name]
  for s in subjects:
    step_secs = summary(secs[s.name])
    row = {
      "name": s.name,
      "images_per_sec": batch / step_secs["median"],
      "step_secs": step_secs,
      "memory": s.memory(),
      "compile_secs": s.compile_secs,
    }
    if s is not subjects[0]:
      # Above 1 the first subject is faster. Each round is compared with the
      # neighbouring one of the other subject, as the machine's load varies.
      pairs = zip(secs[s.name], reference, strict=True)
      row["first_is_faster"] = summary(theirs / ours for theirs, ours in pairs)
    found.append(row)
  return found


def run(
  case: Case,
  mesh: Mesh,
  make_peers: Callable[..., tuple[list[Subject], list[str]]],
  *,
  rounds: int,
  round_secs: float,
  clock: Callable[[], float],
  tf32: bool,
) -> dict[str, Any]:
  """Measures a case in mode train or infer.

  Args:
    case: The case to measure.
    mesh: The mesh of the devices to use.
    make_peers: (case, config) -> (warmed-up peers, lines about missing ones).
    rounds: Turns of each subject.
    round_secs: Least duration of a turn.
    clock: Returns the time in seconds.
    tf32: Allows float32 to be multiplied as TF32.

  Returns:
    The result as it is stored in JSON, without the case.
  """
  config, train = make_config(case, mesh), case.mode == "train"
  flops = forward_flops(config) * (3 if train else 1)
  device = mesh.devices.flat[0]
  peak = mfu.find_peak(device, config.model.dtype, tf32=tf32, clock=clock)
  ours = Ours(config, mesh, train=train)
  peers, notes = make_peers(case, config)
  subjects = [ours, *peers]
  secs = interleave(subjects, rounds=rounds, round_secs=round_secs, clock=clock)
  # The virtual devices of a CPU share its cores.
  sharing = 1 if device.platform == "cpu" else mesh.size
  rows = report(subjects, secs, batch=config.input.batch_size)
  for row in rows:
    row["mfu"] = mfu.mfu(flops, row["step_secs"]["median"], peak, sharing)
  return {
    "subjects": rows,
    "flops_per_step": flops,
    "needs": dataclasses.asdict(ours.cost),
    "peak": dataclasses.asdict(peak),
    "notes": notes,
  }
