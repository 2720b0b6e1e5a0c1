"""Measures speed, memory, compilation, input and start, beside other code.

  python -m scripts.benchmark --variant=R50x1 --px=128 --batch=8

measures a training step on a CPU or GPU (or on TPUs, without peers). One call
can measure training and inference in several combinations, each in a process of
its own:

  python -m scripts.benchmark --mode=train,infer --variant=R50x1,R101x3 \\
      --px=224,480 --batch=64 --dtype=bfloat16,float32 --json=gpu.json
  python -m scripts.benchmark --sweep=model.norm=gn,bn --config.seed=1

timm (`pip install torch torchvision timm`) is measured in turns with bit_jax on
one device: eager (timm), with torch.compile (timm_compiled) and, if named in
--peers, with max-autotune (timm_max_autotune); --peers= leaves all out. On GPUs
float32 is multiplied as TF32 on both sides, which is JAX's default;
--precision=highest turns that off for both. Ratios compare neighbouring rounds.
On a CPU that other processes use as well,

  taskset -c 0 python -m scripts.benchmark --px=128 --batch=8 --clock=cpu

compares CPU time on one core. On several cores PyTorch's threads spend CPU time
on waiting for each other.

  python -m scripts.benchmark --mode=max_batch --variant=R50x1 --dtype=bfloat16
  python -m scripts.benchmark --mode=max_batch --memory_gib=16,24,80,140

finds the largest batch: by trying batches on one GPU, each in a process of its
own, or, with --memory_gib, from the compiler's memory analysis.

  python -m scripts.benchmark --mode=input --px=224 --batch=64
  python -m scripts.benchmark --mode=input --config.data.name=folder:photos

measures the input pipeline, beside tf.data if TensorFlow is installed.

  python -m scripts.benchmark --mode=start --px=32 --batch=32 --rounds=3

measures the seconds from the command to the first step, with an empty and with
a filled compilation cache.

  python -m scripts.benchmark --aot=v3:16x16 --batch=4096 \\
      --dtype=float32,bfloat16 --json=figures.json
  python -m scripts.benchmark --check=figures.json

compile for TPUs without a TPU (`pip install -e '.[preflight]'`). The second
command compiles the stored cases again and exits with 1 if a figure is more
than 1 % worse; it compares nothing if another libtpu is installed.

--config.KEY=VALUE overrides any key of a config, e.g.
--config.optim.accum_steps=4, and --sweep=KEY=VALUE,VALUE measures several
values. The file of --json holds every round.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

from bit_jax.errors import InputError, exit_status, one_line
from bit_jax.parallel import sharding
from bit_jax.preflight import aot
from bit_jax.storage import files
from scripts.benchmark import aot as benchmark_aot
from scripts.benchmark import fit, flags, peers, report, start, steps
from scripts.benchmark import input as input_pipeline
from scripts.benchmark.flags import Case

# The values of --clock.
_CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def _make_mesh(num_devices: int):
  devices = jax.devices()
  if num_devices > len(devices):
    raise InputError(f"--devices={num_devices}: there are {len(devices)}")
  return sharding.make_mesh(devices[: num_devices or None])


def run_case(case: Case, args: argparse.Namespace) -> dict[str, Any]:
  """Measures one case in this process.

  Returns:
    The result as it is stored in JSON.

  Raises:
    InputError: The case cannot be measured.
  """
  result: dict[str, Any] = {"case": dataclasses.asdict(case)}
  mode = case.mode
  if mode == "start":
    return result | start.run(case, rounds=args.rounds)
  if mode == "max_batch" and not (args.aot or args.memory_gib):
    config = steps.load_config(case)
    return result | fit.by_trials(
      case,
      ["bit_jax", *(name for name in args.peers if name in flags.TIMM)],
      lambda name, batch: [
        *flags.command(
          dataclasses.replace(case, mode="train", batch=batch), args
        ),
        *("--devices=1", f"--trial={name}"),
      ],
      unit=config.optim.accum_steps,
    )
  if args.aot:
    mesh = benchmark_aot.make_mesh(args.aot)
  else:
    mesh = _make_mesh(args.devices)
  device = mesh.devices.flat[0]
  result["device"] = {
    "kind": device.device_kind,
    "platform": device.platform,
    "count": mesh.size,
  }
  if mode == "max_batch":
    result["topology"] = args.aot
    found = fit.by_compiler(
      case, mesh, args.memory_gib, benchmark_aot.compile_case
    )
  elif args.aot:
    found = benchmark_aot.run(case, mesh, args.aot)
  elif mode == "input":
    found = input_pipeline.run(
      case,
      mesh,
      peer_names=args.peers,
      num_images=args.images,
      rounds=args.rounds,
      round_secs=args.round_secs,
    )
  else:
    tf32 = args.precision == "default"
    found = steps.run(
      case,
      mesh,
      lambda case, config: peers.make(
        [name for name in args.peers if name in flags.TIMM],
        case,
        config,
        platform=device.platform,
        num_devices=mesh.size,
        tf32=tf32,
      ),
      rounds=args.rounds,
      round_secs=args.round_secs,
      clock=_CLOCKS[args.clock],
      tf32=tf32,
    )
    if args.clock == "cpu":
      found["notes"].append("seconds of CPU time, of all threads together")
    if device.platform == "gpu" and case.dtype == "float32":
      allowed = "may be TF32" if tf32 else "is not TF32"
      found["notes"].append(f"float32 {allowed}, on both sides")
  return result | found


def run_trial(case: Case, args: argparse.Namespace) -> None:
  """Runs a few training steps of one implementation to see if they fit."""
  mesh = _make_mesh(args.devices)
  platform = mesh.devices.flat[0].platform
  if platform == "cpu":
    raise InputError(
      "--mode=max_batch fills the memory of an accelerator and there is none; "
      "--memory_gib= goes by the compiler"
    )
  config = steps.make_config(case, mesh)

  def build():
    if args.trial == "bit_jax":
      return steps.Ours(config, mesh, train=True)
    tf32 = args.precision == "default"
    return peers.Timm(args.trial, case, config, platform=platform, tf32=tf32)

  fit.run_trial(build)


def run_apart(case: Case, args: argparse.Namespace) -> dict[str, Any]:
  """Measures one case in a process of its own.

  Its memory peaks then exclude other cases, and its failure spares them.

  Returns:
    The result of `run_case`, or the case with `error`.
  """
  with tempfile.TemporaryDirectory(prefix="bit_jax_benchmark") as path:
    found = pathlib.Path(path, "case.json")
    done = subprocess.run(
      [*flags.command(case, args), f"--json={found}"],
      env={**os.environ, "PYTHONPATH": flags.python_path()},
      stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
    )
    if done.returncode == 0:
      return json.loads(found.read_text())["cases"][0]
  last = done.stderr.decode(errors="replace").strip().splitlines() or [
    f"ended with {done.returncode}"
  ]
  error = one_line(last[-1]).removeprefix("error: ")
  return {"case": dataclasses.asdict(case), "error": error}


def run_all(
  cases: Sequence[Case],
  args: argparse.Namespace,
  store: Callable[[list[dict[str, Any]]], object],
) -> list[dict[str, Any]]:
  """Measures cases and prints tables; several cases run in own processes.

  Args:
    cases: The cases to measure.
    args: The flags.
    store: Called after each case with all results so far.

  Returns:
    The results, in the order of the cases.
  """
  results = []
  for i, case in enumerate(cases, 1):
    if len(cases) == 1:
      results.append(run_case(case, args))
    else:
      name = report.label(dataclasses.asdict(case))
      print(f"{i} of {len(cases)}: {name}", flush=True)
      results.append(run_apart(case, args))
    store(results)
  print("\n" + report.tables(results), flush=True)
  return results


def check(
  stored: Sequence[dict[str, Any]], results: Sequence[dict[str, Any]]
) -> None:
  """Compares compiled cases with stored ones.

  Raises:
    InputError: A figure is over 1 % worse.
  """
  worse, better = benchmark_aot.compare(stored, results)
  for line in better:
    print(f"better, store it with --json: {line}")
  if worse:
    raise InputError(f"over 1 % worse than stored: {'; '.join(worse)}")
  print("no figure is over 1 % worse than stored")


def run(
  args: argparse.Namespace, overrides: Sequence[str], argv: Sequence[str]
) -> None:
  """Measures the cases that the flags name, prints tables and writes --json.

  Raises:
    InputError: A case could not be measured (the tables hold the others) or,
      with --check, a figure is worse.
    UsageError: An argument is unknown.
  """
  cases, stored = flags.make_cases(args, overrides), []
  if args.trial:
    return run_trial(cases[0], args)
  where = report.environment(argv)
  print(report.header(where), flush=True)
  if args.check:
    stored = benchmark_aot.read(args.check)
    args.aot = stored[0]["topology"]
    mesh = benchmark_aot.make_mesh(args.aot)
    here = aot.compiler_version(mesh.devices.flat[0])
    if here != stored[0]["compiler"]:
      print(
        f"nothing is compared: {args.check} is of {stored[0]['compiler']}, "
        f"here is {here}"
      )
      return None
    cases = [benchmark_aot.to_case(s) for s in stored]

  def store(results):
    if args.json:
      text = json.dumps({**where, "cases": results}, indent=1)
      args.json.parent.mkdir(parents=True, exist_ok=True)
      files.write_text(args.json, text + "\n")

  results = run_all(cases, args, store)
  if failed := [r["error"] for r in results if "error" in r]:
    raise InputError(f"{len(failed)} of {len(cases)} failed: {failed[0]}")
  if args.check:
    check(stored, results)
  return None


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command; returns its exit code."""
  argv = sys.argv[1:] if argv is None else argv
  args, overrides = flags.make_parser(__doc__).parse_known_args(argv)

  if args.precision == "highest":
    jax.config.update("jax_default_matmul_precision", "highest")
  return exit_status(lambda: run(args, overrides, argv))


def prepare_process() -> None:
  """Sets the options that JAX reads when it initializes its devices."""
  # JAX must leave memory to PyTorch, but may itself take as much as it needs.
  os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
  os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.95")
  # With a cache, compile times would measure reading it.
  jax.config.update("jax_enable_compilation_cache", False)


if __name__ == "__main__":
  prepare_process()
  sys.exit(main())
