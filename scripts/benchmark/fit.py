"""Finds the largest batch that fits, by trials or by compilation alone."""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jax.sharding import Mesh

from bit_jax.errors import InputError, one_line
from bit_jax.preflight import aot
from scripts.benchmark import steps
from scripts.benchmark.flags import Case

_OUT_OF_MEMORY = re.compile(r"RESOURCE_EXHAUSTED|out of memory", re.IGNORECASE)

# Search limit, in units; a larger batch is of no interest.
_MOST = 2**17

# A search ends once the result is known up to this share of it.
_SHARE = 1 / 32


def largest(fits: Callable[[int], bool], *, start: int, unit: int) -> int:
  """Finds the largest batch that fits, by doubling, then bisection.

  Args:
    fits: Returns True if a batch, a multiple of unit, fits.
    start: The first batch to try; rounded up to a multiple of unit.
    unit: Only multiples of it are tried.

  Returns:
    The largest batch that was tried and fits; 0 if even `unit` does not.
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
  """Finds the largest batch that fits if memory is nearly linear in the batch.

  Args:
    total_bytes: Returns the memory of a batch, a multiple of unit; infinity if
      the compiler gives up.
    limit: Available memory in bytes.
    start: The first batch to try; rounded up to a multiple of unit.
    unit: Only multiples of it are tried.

  Returns:
    The largest batch that was compiled and fits; 0 if even `unit` does not.
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
    # A guess outside of the bounds shows that memory is not linear here.
    if not low < guess < high:
      guess = (low + high) // 2
    known[guess] = total_bytes(guess * unit)


def _compile_two(
  total_bytes: Callable[[int], float], *, start: int, unit: int
) -> dict[int, float]:
  """Returns {batch in units: bytes} for two batches that define a line.

  The batches are `start`, rounded up to units, and four times that. If the
  compiler gives up on one of them, both are divided by four, until it accepts
  both or the smaller one is a single unit.
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
  """Returns the batch at which a line through two known batches meets a limit.

  Args:
    known: {batch: bytes}; the line goes through the two with finite bytes that
      are closest to the limit.
    limit: Available memory in bytes.

  Returns:
    The batch; 0 if fewer than two are finite, or both take the same memory.
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
    case: The case to train; the search starts with its batch.
    mesh: The mesh to compile for.
    gib: Memory sizes of a device in GiB; empty for what its programs may use.
      Beyond that the compiler gives up, so larger sizes are extrapolated from
      compiled batches.
    compiler: (case, mesh) -> `aot.StepCost`, e.g. `benchmark.aot.compile_case`.

  Returns:
    The result as it is stored in JSON, without the case.

  Raises:
    InputError: The memory is neither given nor known.
  """
  device = mesh.devices.flat[0]
  usable = aot.usable_bytes(device)
  limits = [int(g * aot.GIB) for g in gib] or [usable]
  if not limits[0]:
    raise InputError(
      f"the memory of {device.device_kind} is unknown; give --memory_gib="
    )
  config = steps.make_config(case, mesh)
  unit = mesh.size * config.optim.accum_steps
  # {batch in units: bytes}.
  known: dict[int, float] = {}

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


def fits(build: Callable[[], object]) -> bool:
  """Builds an implementation, which runs some steps; False if memory is short.

  Raises:
    InputError: The implementation is not installed.
  """
  try:
    build()
  except ImportError as e:
    raise InputError(one_line(e)) from e
  except steps.DoesNotFitError:
    return False
  # The out-of-memory errors of jaxlib and PyTorch have no common type.
  except Exception as e:
    if _OUT_OF_MEMORY.search(str(e)):
      return False
    raise
  return True


def by_trials(
  case: Case,
  names: Sequence[str],
  trial: Callable[[str, int], bool],
  unit: int,
) -> dict[str, Any]:
  """Finds the largest batch of each implementation by training with it.

  Args:
    case: The case to train; the search starts with its batch.
    names: Names of the implementations; the others are compared with the first.
    trial: (name, batch) -> True if the batch fits; runs apart.
    unit: Only multiples of it are tried.

  Returns:
    The result as it is stored in JSON, without the case.

  Raises:
    InputError: A trial of the first implementation fails.
  """
  subjects, notes = [], []
  for name in names:
    try:
      batch = largest(
        functools.partial(trial, name), start=case.batch, unit=unit
      )
    # Whatever error a peer raises, bit_jax is still measured.
    except Exception as e:
      if name == names[0]:
        raise
      notes.append(f"{name} is not compared: {one_line(e)}")
      continue
    row = {"name": name, "max_batch": batch}
    if subjects and batch:
      row["first_is_larger"] = subjects[0]["max_batch"] / batch
    subjects.append(row)
  return {"subjects": subjects, "notes": notes}
