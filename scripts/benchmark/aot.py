"""Compiles steps for a TPU topology and guards the figures against regressions.

Figures are equal on every machine and every run if the versions are equal. The
figures of a device hardly depend on the number of devices: v3:1x1 at batch 16
gives those of v3:16x16 at batch 4096.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from jax.sharding import Mesh

from bit_jax.errors import InputError
from bit_jax.preflight import aot
from scripts.benchmark import steps
from scripts.benchmark.flags import Case

# {field of `aot.StepCost`: name in messages}; less is better in all of them.
FIGURES = {
  "bytes_accessed": "bytes accessed",
  "temp_bytes": "temporaries",
  "argument_bytes": "arguments",
  "flops": "FLOPs",
  "estimated_secs": "the estimated time",
}
_TOLERANCE = 0.01


def make_mesh(topology: str) -> Mesh:
  """Returns the mesh of a topology's devices.

  Raises:
    InputError: There is no such topology, or libtpu is not installed.
  """
  try:
    return aot.topology_mesh(topology)
  except InputError as e:
    # The message names the flag of tools/preflight.py.
    raise InputError(str(e).replace("--topology=", "--aot=")) from e


def compile_case(case: Case, mesh: Mesh) -> aot.StepCost:
  """Compiles the inference step of a case in mode infer, else its update step.

  Raises:
    InputError: A value is wrong or does not suit the devices.
  """
  config = steps.make_config(case, mesh)
  if case.mode != "infer":
    return aot.compile_step(config, mesh)
  return aot.compile_function(
    steps.make_infer_step(config, mesh).run,
    steps.make_abstract_prepared(config, mesh),
    aot.abstract_batch(config, steps.make_spec(config, mesh)),
  )[1]


def run(case: Case, mesh: Mesh, topology: str) -> dict[str, Any]:
  """Compiles a case.

  Args:
    case: A case in mode train or infer.
    mesh: The mesh of the topology's devices.
    topology: Name of the topology.

  Returns:
    The result as it is stored in JSON, without the case.
  """
  cost = compile_case(case, mesh)
  device = mesh.devices.flat[0]
  return {
    "topology": topology,
    "compiler": aot.compiler_version(device),
    "needs": dataclasses.asdict(cost),
    "usable_bytes": aot.usable_bytes(device),
    "notes": [],
  }


def read(path: pathlib.Path) -> list[dict[str, Any]]:
  """Reads the compiled cases of a file written with --json.

  Raises:
    InputError: There is no such file, or it has no compiled cases.
  """
  try:
    stored = json.loads(path.read_text())["cases"]
    stored = [s for s in stored if s.get("topology") and "needs" in s]
    for s in stored:
      to_case(s)
      for key in FIGURES:
        float(s["needs"][key])
      str(s["compiler"])
  except OSError as e:
    raise InputError(f"--check={path}: {e.strerror}") from e
  except (ValueError, LookupError, TypeError, AttributeError) as e:
    raise InputError(
      f"--check={path} is not what --json writes with --aot ({e!r})"
    ) from e
  if not stored:
    raise InputError(f"--check={path} has no case compiled with --aot")
  for key in ("topology", "compiler"):
    if len({s[key] for s in stored}) > 1:
      raise InputError(f"--check={path} has cases of more than one {key}")
  return stored


def to_case(result: Mapping[str, Any]) -> Case:
  """Returns the case of a result read from JSON."""
  fields = dict(result["case"])
  return Case(**{**fields, "overrides": tuple(fields["overrides"])})


def compare(
  stored: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]
) -> tuple[list[str], list[str]]:
  """Compares figures with stored ones.

  Args:
    stored: Results from `read`.
    found: New results of the same cases, in the same order.

  Returns:
    (worse, better): a line for each figure that is more than 1 % worse, and one
    for each that is more than 1 % better.
  """
  worse, better = [], []
  for old, new in zip(stored, found, strict=True):
    case = to_case(old)
    name = " ".join(
      (case.variant, case.dtype, case.mode, *case.overrides, old["topology"])
    )
    if new["needs"]["refusal"]:
      worse.append(f"{name}: {new['needs']['refusal']}")
      continue
    for key, figure in FIGURES.items():
      before, now = old["needs"][key], new["needs"][key]
      line = f"{name}: {figure} {before:.6g} -> {now:.6g}"
      if now > before * (1 + _TOLERANCE):
        worse.append(line)
      elif now < before * (1 - _TOLERANCE):
        better.append(line)
  return worse, better
