"""Measures the time to the first step with an empty and a filled cache."""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

from bit_jax.errors import InputError, one_line
from scripts.benchmark import steps
from scripts.benchmark.flags import ROOT, Case

# bit_jax.main prints "imported in 1.0 s" and "first step after 1.0 s: data 1.0,
# state 1.0, compiling and running the step 1.0".
_IMPORTED = re.compile(r"imported in ([\d.]+) s")
_FIRST_STEP = re.compile(r"first step after ([\d.]+) s: (.*)")
_PART = re.compile(r"([a-z][a-z ]*?) ([\d.]+)(?:,|$)")


def parse(line: str, found: dict[str, float]) -> bool:
  """Reads the times from a line of bit_jax.main's output.

  Args:
    line: The line.
    found: {name: seconds}; receives the times in the line.

  Returns:
    True if the line reports the first step.
  """
  if match := _IMPORTED.search(line):
    found["imports"] = float(match[1])
  if match := _FIRST_STEP.search(line):
    found["after imports"] = float(match[1])
    found |= {name: float(secs) for name, secs in _PART.findall(match[2])}
  return bool(match)


def start(command: list[str], env: Mapping[str, str]) -> dict[str, float]:
  """Starts a run and kills it when its first step is done.

  Args:
    command: Command line of a training run.
    env: Environment of the run.

  Returns:
    {name: seconds}: `first step`, counted from the start of the process, and
    the times that `parse` finds.

  Raises:
    InputError: The run ends before its first step.
  """
  found: dict[str, float] = {}
  begun = time.monotonic()
  with subprocess.Popen(
    command,
    env=env,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    cwd=ROOT,
  ) as process:
    assert process.stdout
    line = ""
    try:
      for line in process.stdout:
        if parse(line, found):
          found["first step"] = time.monotonic() - begun
          return found
    finally:
      process.kill()
  raise InputError(f"the run fails: {one_line(line).removeprefix('error: ')}")


def run(case: Case, *, rounds: int) -> dict[str, Any]:
  """Measures a case in mode start, on glyphs unless the case names other data.

  Args:
    case: The case to start.
    rounds: Number of rounds. A round starts once with an empty compilation
      cache, then with the filled one.

  Returns:
    The result as it is stored in JSON, without the case.

  Raises:
    InputError: A run fails.
  """
  found: dict[str, list[dict[str, float]]] = {"empty cache": [], "filled": []}
  arguments = case.arguments
  if not any(item.startswith("data.") for item in case.overrides):
    arguments = [*arguments, "--config.data.name=glyphs"]
  for i in range(rounds):
    with tempfile.TemporaryDirectory(prefix="bit_jax_benchmark") as path:
      cache = {"JAX_COMPILATION_CACHE_DIR": f"{path}/cache"}
      for name, times in found.items():
        command = [
          *(sys.executable, "-m", "bit_jax.main", f"--config={case.config}"),
          *(f"--workdir={path}/{name}", *arguments),
        ]
        times.append(start(command, {**os.environ, **cache}))
        print(
          f"round {i + 1} of {rounds}, {name}: first step after "
          f"{times[-1]['first step']:.1f} s",
          flush=True,
        )
  return {
    "subjects": [
      {
        "name": name,
        "first_step_secs": steps.summary(t["first step"] for t in times),
        "parts_secs": {
          part: steps.summary(t[part] for t in times)
          for part in times[0]
          if part != "first step"
        },
      }
      for name, times in found.items()
    ],
    "notes": [],
  }
