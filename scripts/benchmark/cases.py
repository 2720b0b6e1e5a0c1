"""Measures one case, in this process or in one of its own."""

import argparse
import dataclasses
import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent import futures
from typing import Any

import jax

from bit_jax.errors import InputError
from bit_jax.parallel import sharding
from scripts.benchmark import aot, fit, flags, peers, start, steps
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
  timm = [name for name in args.peers if name in flags.TIMM]
  if mode == "start":
    return result | start.run(case, rounds=args.rounds)
  if mode == "max_batch" and not (args.aot or args.memory_gib):
    config = steps.load_config(case)
    return result | fit.by_trials(
      case,
      ["bit_jax", *timm],
      lambda name, batch: apart(
        run_trial, name, dataclasses.replace(case, batch=batch), args
      ),
      unit=config.optim.accum_steps,
    )
  mesh = aot.make_mesh(args.aot) if args.aot else _make_mesh(args.devices)
  device = mesh.devices.flat[0]
  result["device"] = {
    "kind": device.device_kind,
    "platform": device.platform,
    "count": mesh.size,
  }
  if mode == "max_batch":
    result["topology"] = args.aot
    found = fit.by_compiler(case, mesh, args.memory_gib, aot.compile_case)
  elif args.aot:
    found = aot.run(case, mesh, args.aot)
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
        timm,
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


def run_trial(name: str, case: Case, args: argparse.Namespace) -> bool:
  """Trains a few steps; returns True if the case fits the first device.

  Call it in a process of its own.

  Args:
    name: `bit_jax` or the name of a peer.
    case: The case to train.
    args: The flags.

  Raises:
    InputError: There is no accelerator, or the peer is not installed.
  """
  # A training run preallocates its memory in one piece, which also loses less
  # to fragmentation.
  os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "true"
  mesh = _make_mesh(1)
  platform = mesh.devices.flat[0].platform
  if platform == "cpu":
    raise InputError(
      "--mode=max_batch fills the memory of an accelerator and there is none; "
      "--memory_gib= goes by the compiler"
    )
  config = steps.make_config(case, mesh)

  def build():
    if name == "bit_jax":
      return steps.Ours(config, mesh, train=True)
    tf32 = args.precision == "default"
    return peers.Timm(name, case, config, platform=platform, tf32=tf32)

  return fit.fits(build)


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
  """Returns function(*arguments), computed in a process of its own.

  The memory peaks of a case then exclude other cases, and its failure spares
  them. Environment variables reach the process.

  Raises:
    InputError: The process ended without a result; what the function raises is
      raised here too.
  """
  spawn = multiprocessing.get_context("spawn")
  with futures.ProcessPoolExecutor(1, spawn, initializer=_be_quiet) as pool:
    try:
      return pool.submit(function, *arguments).result()
    except futures.process.BrokenProcessPool as e:
      raise InputError("its process ended without a result") from e


def _be_quiet() -> None:
  """Drops stderr: a trial that does not fit would fill the screen."""
  os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
