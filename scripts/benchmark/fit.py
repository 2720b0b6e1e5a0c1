"""The largest batch that fits: by trying, or by what the compiler says."""

import dataclasses
import math
import os
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jax.sharding import Mesh

from bit_jax.errors import InputError, one_line
from bit_jax.preflight import aot
from scripts.benchmark import steps
from scripts.benchmark.flags import Case, python_path

# What a trial's error starts with where memory was too small.
DOES_NOT_FIT = "does not fit"

_OUT_OF_MEMORY = re.compile(r"RESOURCE_EXHAUSTED|out of memory", re.IGNORECASE)

# Units; whatever fits then is not what is looked for.
_MOST = 2**17

# Of the result; a search ends where it is known that closely.
_SHARE = 1 / 32


def largest(fits: Callable[[int], bool], *, start: int, unit: int) -> int:
  """Finds the largest batch that fits, by doubling, then bisection.

  Args:
    fits: asked about multiples of unit.
    start: tried first; rounded up to a multiple of unit.
    unit: the batch is a multiple of it.

  Returns:
    0 where even `unit` does not fit.
  """
  low, high = 0, -(-start // unit)
  while fits(high * unit):
    low, high = high, 2 * high
    if low > _MOST:
      return low * unit
  while not low:
    if high == 1:
      return 0
    if fits(high // 2 * unit):
      low = high // 2
    else:
      high //= 2
  while high - low > max(1, int(low * _SHARE)):
    middle = (low + high) // 2
    if fits(middle * unit):
      low = middle
    else:
      high = middle
  return low * unit


def largest_on_line(
  total_bytes: Callable[[int], float],
  limit: float,
  *,
  start: int,
  unit: int,
) -> int:
  """Finds the largest batch that fits where memory is nearly linear in it.

  Args:
    total_bytes: of a batch, a multiple of unit; infinite where the compiler
      gives up.
    limit: bytes that there are.
    start: tried first, see `_compile_two`.
    unit: the batch is a multiple of it.

  Returns:
    A batch that was compiled and fits; 0 where even `unit` does not.
  """
  known = _compile_two(total_bytes, start=start, unit=unit)
  while True:
    low = max((n for n, size in known.items() if size <= limit), default=0)
    high = min(
      (n for n, size in known.items() if n > low and size > limit),
      default=2 * _MOST,
    )
    guess = min(_on_line(known, limit), _MOST)
    enough = max(1.0, _SHARE * low)
    if high - low <= enough or (low and guess - low < enough):
      return low * unit
    if not low < guess < high:  # The line misleads.
      guess = (low + high) // 2
    known[guess] = total_bytes(guess * unit)


def _compile_two(
  total_bytes: Callable[[int], float], *, start: int, unit: int
) -> dict[int, float]:
  """Returns {batch in units: bytes} of two batches, to draw a line through.

  Of `start`, rounded up to units, and its fourfold; or of a fourth of them, and
  so on, until the compiler gives up on neither or nothing smaller is left.
  """
  low = min(-(-start // unit), _MOST // 4)
  known = {}
  while True:
    for n in (low, 4 * low):
      if n not in known:
        known[n] = total_bytes(n * unit)
    if low == 1 or math.inf not in (known[low], known[4 * low]):
      return known
    low = -(-low // 4)


def _on_line(known: Mapping[int, float], limit: float) -> int:
  """Returns the batch at which a line through two known ones meets a limit.

  Args:
    known: {batch: bytes}; of those that are finite, the two closest to the
      limit are taken.
    limit: bytes.

  Returns:
    0 where there are no two, or they take the same.
  """
  finite = {n: size for n, size in known.items() if size < math.inf}
  closest = sorted(finite, key=lambda n: abs(finite[n] - limit))[:2]
  if len(closest) < 2 or finite[closest[0]] == finite[closest[1]]:
    return 0
  a, b = closest
  return math.floor(a + (limit - finite[a]) * (b - a) / (finite[b] - finite[a]))


def by_compiler(
  case: Case, mesh: Mesh, gib: Sequence[float], compiler: Callable[..., Any]
) -> dict[str, Any]:
  """Finds the largest batch by compiling only; nothing runs.

  Args:
    case: says what to train; its batch is where the search starts.
    mesh: what to compile for.
    gib: memory of a device, GiB; empty: what its programs may use. What is
      more than that is answered by the line through the two largest batches
      that were compiled, since the compiler gives up there.
    compiler: (case, mesh) -> `aot.StepCost`, e.g. `benchmark_aot.compile_case`.

  Raises:
    InputError: the memory is neither given nor known.
  """
  device = mesh.devices.flat[0]
  usable = aot.usable_bytes(device)
  limits = [int(g * aot.GIB) for g in gib] or [usable]
  if not limits[0]:
    raise InputError(
      f"the memory of {device.device_kind} is unknown: --memory_gib= says it"
    )
  config = steps.make_config(case, mesh)
  unit = mesh.size * config.optim.accum_steps
  known: dict[int, float] = {}  # Bytes by units.

  def total_bytes(batch):
    if batch // unit not in known:
      cost = compiler(dataclasses.replace(case, batch=batch), mesh)
      known[batch // unit] = math.inf if cost.refusal else cost.total_bytes
    return known[batch // unit]

  subjects = []
  for limit in sorted(limits):
    row = {"name": "bit_jax", "memory_gib": limit / aot.GIB}
    if usable and limit > usable:
      _compile_two(total_bytes, start=case.batch, unit=unit)
      row |= {"max_batch": _on_line(known, limit) * unit, "extrapolated": True}
    else:
      row["max_batch"] = largest_on_line(
        total_bytes, limit, start=case.batch, unit=unit
      )
    subjects.append(row)
  return {
    "subjects": subjects,
    "compiler": aot.compiler_version(device),
    "notes": ["by the compiler's memory analysis, not run"],
  }


def run_trial(build: Callable[[], object]) -> None:
  """Builds a subject, which makes some steps.

  Raises:
    InputError: its memory does not suffice, which starts with DOES_NOT_FIT, or
      it is not installed.
  """
  try:
    build()
  except ImportError as e:
    raise InputError(one_line(e)) from e
  # jaxlib's and PyTorch's errors share no type.
  except Exception as e:
    if _OUT_OF_MEMORY.search(str(e)):
      raise InputError(f"{DOES_NOT_FIT}: {one_line(e)[:200]}") from e
    raise


def try_batch(command: Sequence[str]) -> bool:
  """Runs a trial, where running out of memory can do no harm.

  Args:
    command: exits 0 if the batch fits, else with an error that says
      DOES_NOT_FIT.

  Raises:
    InputError: it fails in another way.
  """
  # In one piece, as a training run has it: less is lost between the pieces.
  env = {
    **os.environ,
    "PYTHONPATH": python_path(),
    "XLA_PYTHON_CLIENT_PREALLOCATE": "true",
  }
  done = subprocess.run(
    command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
  )
  if not done.returncode:
    return True
  lines = done.stderr.decode(errors="replace").strip().splitlines() or [""]
  if lines[-1].startswith(f"error: {DOES_NOT_FIT}"):
    return False
  raise InputError(
    f"a trial ended with {done.returncode}: {lines[-1].removeprefix('error: ')}"
  )


def by_trials(
  case: Case,
  names: Sequence[str],
  command: Callable[[str, int], Sequence[str]],
  unit: int,
) -> dict[str, Any]:
  """Finds the largest batch of each implementation by training with it.

  Args:
    case: its batch is where the search starts.
    names: of the implementations.
    command: (name, batch) -> of a trial.
    unit: the batch is a multiple of it.
  """
  subjects, notes = [], []
  for name in names:
    try:
      batch = largest(
        lambda batch, name=name: try_batch(command(name, batch)),
        start=case.batch,
        unit=unit,
      )
    except InputError as e:
      if name == names[0]:
        raise
      notes.append(f"{name} is not compared: {e}")
      continue
    row = {"name": name, "max_batch": batch}
    if subjects and batch:
      row["first_is_larger"] = subjects[0]["max_batch"] / batch
    subjects.append(row)
  return {"subjects": subjects, "notes": notes}
