"""Measures speed, memory, compilation, input and start, beside others' code.

  python -m scripts.benchmark --variant=R50x1 --px=128 --batch=8

On a CPU or GPU (TPUs too, without peers), training and inference, several
combinations in one call, each in a process of its own:

  python -m scripts.benchmark --mode=train,infer --variant=R50x1,R101x3 \\
      --px=224,480 --batch=64 --dtype=bfloat16,float32 --json=gpu.json
  python -m scripts.benchmark --sweep=model.norm=gn,bn --config.seed=1

timm (`pip install torch torchvision timm`) is measured in turns with ours, on
one device: eager (timm), torch.compile'd (timm_compiled) and, if asked for with
--peers, timm_max_autotune; --peers= leaves all out. Precision of float32 on
GPUs is JAX's default, TF32, on both sides; --precision=highest has neither use
it. Ratios are of neighbouring rounds. On a CPU that others use as well,

  taskset -c 0 python -m scripts.benchmark --px=128 --batch=8 --clock=cpu

compares CPU time on one core: on several, PyTorch's threads spend theirs
waiting for each other.

  python -m scripts.benchmark --mode=max_batch --variant=R50x1 --dtype=bfloat16
  python -m scripts.benchmark --mode=max_batch --memory_gib=16,24,80,140

tries batches on one GPU, each in a process of its own, or (--memory_gib) goes
by what the compiler says a batch needs.

  python -m scripts.benchmark --mode=input --px=224 --batch=64
  python -m scripts.benchmark --mode=input --config.data.name=folder:photos
  python -m scripts.benchmark --mode=start --px=32 --batch=32 --rounds=3

The input pipeline, beside tf.data where TensorFlow is installed; and seconds
from the command to the first step, with an empty and a filled compilation
cache.

  python -m scripts.benchmark --aot=v3:16x16 --batch=4096 \\
      --dtype=float32,bfloat16 --json=figures.json
  python -m scripts.benchmark --check=figures.json

compiles for TPUs, without one (`pip install -e '.[preflight]'`). The second
command compiles the same cases again and exits with 1 if a figure became more
than 1 % worse; it compares nothing where another libtpu is installed.

Any key of a config can be overridden (--config.optim.accum_steps=4), also with
several values (--sweep=KEY=VALUE,VALUE). --json has every round.
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

# Of --clock.
_CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def _make_mesh(num_devices: int):
  devices = jax.devices()
  if num_devices > len(devices):
    raise InputError(f"--devices={num_devices}: there are {len(devices)}")
  return sharding.make_mesh(devices[: num_devices or None])


def run_case(case: Case, args: argparse.Namespace) -> dict[str, Any]:
  """Measures one case in this process; returns what JSON has of it.

  Raises:
    InputError: it cannot be measured.
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
  """Makes a few training steps of one implementation, to see if they fit."""
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

  Its peaks of memory are its own there, and its end ends no other case.

  Returns:
    What `run_case` returns, or the case with `error`.
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
  """Measures cases, several in processes of their own, and prints tables.

  Args:
    cases: to measure.
    args: the flags.
    store: called with the results so far after each.
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
    InputError: a figure is over 1 % worse.
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
  """Measures what the flags say, prints tables and writes --json.

  Raises:
    InputError: some could not be measured, the others are in the tables; or
      with --check, a figure is worse.
    UsageError: an argument is unknown.
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
  args, overrides = flags.make_parser(__doc__ or "").parse_known_args(argv)

  if args.precision == "highest":
    jax.config.update("jax_default_matmul_precision", "highest")
  return exit_status(lambda: run(args, overrides, argv))


def prepare_process() -> None:
  """Sets what must be set before JAX looks for devices."""
  # PyTorch needs memory beside JAX, whose share may grow as far as is useful.
  os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
  os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.95")
  # Compile times are of compilations.
  jax.config.update("jax_enable_compilation_cache", False)


if __name__ == "__main__":
  prepare_process()
  sys.exit(main())
