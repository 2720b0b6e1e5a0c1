r"""Measures speed, memory, compilation, input and start, beside other code.

  python -m scripts.benchmark --variant=R50x1 --px=128 --batch=8

measures a training step on a CPU or GPU (or on TPUs, without peers). One call
can measure training and inference in several combinations, each in a process of
its own:

  python -m scripts.benchmark --mode=train,infer --variant=R50x1,R101x3 \
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

  python -m scripts.benchmark --aot=v3:16x16 --batch=4096 \
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
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax

from bit_jax import progress
from bit_jax.errors import InputError, exit_status, one_line
from bit_jax.preflight import aot
from bit_jax.storage import files
from scripts.benchmark import aot as benchmark_aot
from scripts.benchmark import flags, report
from scripts.benchmark.cases import apart, run_case
from scripts.benchmark.flags import Case


def run_all(
  cases: Sequence[Case],
  args: argparse.Namespace,
  store: Callable[[list[dict[str, Any]]], object],
) -> list[dict[str, Any]]:
  """Measures cases and prints tables; each of several has its own process.

  Args:
    cases: The cases to measure.
    args: The flags.
    store: Called after each case with all results so far.

  Returns:
    The results, in the order of the cases.
  """
  results = []
  for i, case in enumerate(cases, 1):
    named = dataclasses.asdict(case)
    label = f"{i} of {len(cases)}: {report.label(named)}"
    doing = progress.activity(f"measuring {label}")
    if len(cases) == 1:
      with doing:
        results.append(run_case(case, args))
    else:
      print(label, flush=True)
      try:
        with doing:
          results.append(apart(run_case, case, args))
      # Whatever error a case ends in, the others are still measured.
      except Exception as e:
        results.append({"case": named, "error": one_line(e)})
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
      return
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


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command; returns its exit code."""
  argv = sys.argv[1:] if argv is None else argv
  args, overrides = flags.make_parser(__doc__).parse_known_args(argv)
  if args.precision == "highest":
    os.environ["JAX_DEFAULT_MATMUL_PRECISION"] = "highest"
    jax.config.update("jax_default_matmul_precision", "highest")
  return exit_status(lambda: run(args, overrides, argv))


def prepare_process() -> None:
  """Sets options of JAX, for this process and those that it starts."""
  # JAX must leave memory to PyTorch, but may itself take as much as it needs.
  os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
  os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.95")
  # With a cache, compile times would measure reading it.
  os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
  jax.config.update("jax_enable_compilation_cache", False)


if __name__ == "__main__":
  prepare_process()
  sys.exit(main())
