"""Kills runs at random moments and compares their results, bit for bit.

  python -m scripts.faults [--seeds=3] [--kills=7] [--workdir=DIR]

For each seed one run of a small network is left alone, and another is killed
with SIGKILL several times: while it starts, after a random step, and in the
middle of a save, as soon as its unfinished folder appears. Each time the same
command is started again. In the end both runs must have the same parameters,
optimiser state, random key, losses, example ids and evaluations; metrics.jsonl
must hold each step once; and running the same command again must change
nothing.

Prints a line for each kill. Writes WORKDIR/faults.json with the times from
start to the next step and the times for which saves stall the loop. Exits with
1 and a message if anything differs, if no kill fell into a save, if fewer than
20 kills happened though as many were asked for, or if the median time from
start to the next step is above 15 s.
"""

import bit_jax  # noqa: F401  Before all others, so that Ctrl-C is quiet.

# isort: split
import contextlib
import functools
import json
import os
import pathlib
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bit_jax import progress
from bit_jax.errors import InputError, exit_status
from bit_jax.storage import checkpoint, user_paths
from bit_jax.tools import command_line
from bit_jax.writers import metrics_file

# A run must be longer than all its kills together, on a fast machine too.
TOTAL_STEPS = 160
SAVE_EVERY = 4
# The moments of kills, in turn. A save is the most delicate one, so it comes
# twice.
MOMENTS = ("start", "step", "save", "save")

# Targets. The last one is reported only, as machines differ.
LEAST_KILLS = 20
RESUME_AIM_SECS = 15
DRIVER_AIM_SECS = 360

# The names of checkpoints that Orbax has not committed contain this.
_UNFINISHED = "tmp"
# Metrics that are times, which differ between equal runs.
_FREE = ("train/input_wait", "checkpoint/stall_secs")

print_line = functools.partial(print, flush=True)


def command(workdir: pathlib.Path, seed: int) -> list[str]:
  """Returns the command line of a run."""
  return [
    *(sys.executable, "-m", "bit_jax.main", f"--workdir={workdir}"),
    "--config=configs/downstream.py:preset=quick,model=R14x0.25,dataset=digits",
    f"--config.seed={seed}",
    f"--config.total_steps={TOTAL_STEPS}",
    f"--config.checkpoint.every_steps={SAVE_EVERY}",
    f"--config.eval.every_steps={TOTAL_STEPS // 2}",
    *("--config.input.batch_size=8", "--config.log_every_steps=1"),
    *("--config.mixup_alpha=0.2", "--config.data.eval_splits=test[:64]"),
  ]


@contextlib.contextmanager
def started(
  workdir: pathlib.Path, seed: int, log: pathlib.Path
) -> Iterator[subprocess.Popen]:
  """Yields a started run that writes to a log file; kills it on leaving."""
  environ = {"JAX_PLATFORMS": "cpu", **os.environ, "PYTHONUNBUFFERED": "1"}
  with log.open("w") as out:
    process = subprocess.Popen(
      command(workdir, seed), env=environ, stdout=out, stderr=out
    )
    try:
      yield process
    finally:
      process.kill()
      process.wait()


def last_step(log: pathlib.Path) -> int:
  """Returns the last step that a log reports; -1 if there is none."""
  steps = [
    int(line.split()[1])
    for line in log.read_text().splitlines()
    if line.startswith("step ")
  ]
  return steps[-1] if steps else -1


def is_saving(workdir: pathlib.Path) -> bool:
  """Returns True if a checkpoint is being written."""
  folder = workdir / "checkpoints"
  return folder.exists() and any(_UNFINISHED in n for n in os.listdir(folder))


def kill_at(
  moment: str, workdir: pathlib.Path, seed: int, rng: random.Random
) -> dict[str, Any] | None:
  """Starts a run and kills it at a moment.

  Args:
    moment: One of MOMENTS.
    workdir: Work directory of the run; its log is WORKDIR.log.
    seed: Seed of the run.
    rng: Draws the delay or the number of steps before the kill.

  Returns:
    The record of the kill; None if the run finished before.

  Raises:
    InputError: The run failed.
  """
  log = workdir.with_suffix(".log")
  # New steps of this start before it is killed.
  steps = rng.randint(1, 3)
  with started(workdir, seed, log) as process:
    begin, first_secs, delay = time.monotonic(), None, 0.0
    if moment == "start":
      delay = rng.uniform(0, 6)
    seen = first = -1
    while process.poll() is None:
      now, seen = time.monotonic() - begin, last_step(log)
      if first < 0 <= seen:
        first, first_secs = seen, now
      is_far = first >= 0 and seen >= first + steps - 1
      if moment == "start" and now >= delay:
        break
      if moment == "step" and is_far:
        time.sleep(rng.uniform(0, 0.1))
        break
      if moment == "save" and is_far and is_saving(workdir):
        break
      time.sleep(0.001)
    saving = is_saving(workdir)
    code = process.poll()
  if code == 0:
    return None
  if code is not None:
    raise InputError(
      f"seed {seed}: the run ended with {code} before it was killed; see {log}"
    )
  return {
    "moment": moment,
    "after_step": max(seen, 0),
    "while_saving": saving,
    "secs_to_first_step": first_secs,
  }


def finish(workdir: pathlib.Path, seed: int) -> None:
  """Starts a run and waits for its end.

  Raises:
    InputError: The run fails.
  """
  log = workdir.with_suffix(".log")
  with (
    progress.activity(f"seed {seed}: a run to its end"),
    started(workdir, seed, log) as process,
  ):
    if code := process.wait():
      raise InputError(f"seed {seed}: exit code {code}; see {log}")


def contents(workdir: pathlib.Path) -> dict[str, bytes]:
  """Returns {relative path: content} of all files of a finished run."""
  return {
    str(path.relative_to(workdir)): path.read_bytes()
    for path in sorted(workdir.rglob("*"))
    if path.is_file()
  }


def differences(a: pathlib.Path, b: pathlib.Path) -> list[str]:
  """Returns a line for each difference between two finished runs."""
  states = [checkpoint.load_arrays(checkpoint.find(d)) for d in (a, b)]
  found = [f"state {name}" for name in unequal(*states)]
  lines = [
    [
      {k: v for k, v in line.items() if k not in _FREE}
      for line in metrics_file.read_metrics(d / metrics_file.METRICS_FILE)
    ]
    for d in (a, b)
  ]
  lines = [[line for line in side if len(line) > 1] for side in lines]
  found += [
    f"metrics.jsonl: {x} and {y}"
    for x, y in zip(*lines, strict=False)
    if x != y
  ]
  if len(lines[0]) != len(lines[1]):
    found.append(f"metrics.jsonl: {len(lines[0])} and {len(lines[1])} lines")
  results = [json.loads((d / "result.json").read_text()) for d in (a, b)]
  if results[0] != results[1]:
    found.append(f"result.json: {results[0]} and {results[1]}")
  npz = [dict(np.load(d / "params.npz")) for d in (a, b)]
  return found + [f"params.npz: {name}" for name in unequal(*npz)]


def unequal(
  a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]
) -> list[str]:
  """Returns the names of arrays that differ in a bit, or that one lacks."""

  def bits(array):
    return array is not None and (array.dtype, array.shape, array.tobytes())

  return [
    name
    for name in sorted(a.keys() | b.keys())
    if bits(a.get(name)) != bits(b.get(name))
  ]


def stalls(workdir: pathlib.Path) -> list[float]:
  """Returns the seconds for which each save stalled the loop."""
  return [
    line["checkpoint/stall_secs"]
    for line in metrics_file.read_metrics(workdir / metrics_file.METRICS_FILE)
    if "checkpoint/stall_secs" in line
  ]


def figures(report: dict[str, Any], seeds: int) -> str:
  """Returns the figures of a report and their targets as one line."""
  while_saving = sum(kill["while_saving"] for kill in report["kills"])
  return (
    f"{len(report['kills'])} kills, {while_saving} of them while saving, over "
    f"{seeds} seeds: no difference; from start to the next step: median "
    f"{report['median_resume_secs']:.1f} s, slowest "
    f"{report['slowest_resume_secs']:.1f} s (aim: under {RESUME_AIM_SECS} s); "
    f"until a save lets the loop go on: median "
    f"{report['median_stall_secs']:.2f} s; {report['secs']:.0f} s in all (aim: "
    f"under {DRIVER_AIM_SECS} s)"
  )


def check_figures(report: dict[str, Any], seeds: int, kills: int) -> None:
  """Checks that a report without differences is meaningful.

  Args:
    report: The content of faults.json.
    seeds: Number of seeds that was asked for.
    kills: Number of kills that was asked for, per seed.

  Raises:
    InputError: There were too few kills or none in a save, or resuming takes
      too long.
  """
  done = len(report["kills"])
  if done < LEAST_KILLS <= seeds * kills:
    raise InputError(
      f"only {done} kills happened, expected {LEAST_KILLS} or more: the runs "
      f"came to their end too soon"
    )
  saving = any(kill["while_saving"] for kill in report["kills"])
  if "save" in MOMENTS[:kills] and not saving:
    raise InputError("no kill fell into a save: nothing is shown of that")
  if report["median_resume_secs"] > RESUME_AIM_SECS:
    raise InputError(
      f"it takes {report['median_resume_secs']:.1f} s (median) from start to "
      f"the next step, expected at most {RESUME_AIM_SECS}"
    )


def run(workdir: pathlib.Path, seeds: int, kills: int) -> dict[str, Any]:
  """Kills and compares the runs of all seeds; writes faults.json.

  Args:
    workdir: Folder of the runs and of faults.json.
    seeds: Number of seeds.
    kills: Number of kills per seed.

  Returns:
    The content of faults.json.

  Raises:
    InputError: Results differ, a run fails, or `check_figures` fails.
  """
  begin = time.monotonic()
  report: dict[str, Any] = {"kills": [], "resume_secs": [], "stall_secs": []}
  for seed in range(seeds):
    whole, cut = workdir / f"{seed}-whole", workdir / f"{seed}-cut"
    finish(whole, seed)
    rng = random.Random(seed)
    for number in range(kills):
      moment = MOMENTS[number % len(MOMENTS)]
      with progress.activity(f"seed {seed}: a run to be killed"):
        kill = kill_at(moment, cut, seed, rng)
      if kill is None:
        print_line(f"seed {seed}: at its end after {number} kills")
        break
      kill["seed"] = seed
      report["kills"].append(kill)
      saving = ", while saving" if kill["while_saving"] else ""
      print_line(f"seed {seed}: killed after step {kill['after_step']}{saving}")
      if kill["secs_to_first_step"] and number:
        report["resume_secs"].append(kill["secs_to_first_step"])
    finish(cut, seed)
    report["stall_secs"] += stalls(whole)
    different = differences(whole, cut)
    if different:
      raise InputError(f"seed {seed}: {'; '.join(different[:5])}")
    before = contents(cut)
    finish(cut, seed)
    if contents(cut) != before:
      raise InputError(f"seed {seed}: running it again changed {cut}")
    print_line(f"seed {seed}: no difference")
  report["secs"] = time.monotonic() - begin
  for key in ("resume_secs", "stall_secs"):
    report[f"median_{key}"] = statistics.median(report[key] or [0.0])
    report[f"slowest_{key}"] = max(report[key], default=0.0)
  (workdir / "faults.json").write_text(json.dumps(report, indent=1) + "\n")
  print_line(figures(report, seeds))
  check_figures(report, seeds, kills)
  return report


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line and returns the exit status."""
  parser = command_line.Parser("scripts.faults", __doc__)
  count = command_line.at_least(1)
  parser.add_argument("--seeds", type=count, default=3, help="number of seeds")
  parser.add_argument("--kills", type=count, default=7, help="kills per seed")
  parser.add_argument(
    "--workdir",
    type=user_paths.local,
    help="folder of the runs (default: a temporary one, removed on success)",
  )
  args = parser.parse_args(argv)
  workdir = args.workdir or pathlib.Path(tempfile.mkdtemp(prefix="faults-"))
  workdir.mkdir(parents=True, exist_ok=True)
  status = exit_status(lambda: run(workdir, args.seeds, args.kills))
  if not args.workdir and status == 0:
    shutil.rmtree(workdir)
  return status


if __name__ == "__main__":
  sys.exit(main())
