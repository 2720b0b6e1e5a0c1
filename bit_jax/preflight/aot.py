"""Compiles ahead of time, and says what a step needs of a device.

For the devices of this machine, or for those of a TPU topology: libtpu compiles
for a whole pod on any x86 machine, without a TPU.
"""

import dataclasses
import importlib.metadata
import importlib.util
import math
import os
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from bit_jax.errors import InputError, one_line
from bit_jax.recipe.load import Config
from bit_jax.run import step

GIB = 2**30

# GiB of one device that a program may use. These are the compiler's own numbers
# ("exceeds available HBM (15.48G)", libtpu 0.0.42): what Cloud TPU's
# documentation gives a device (v2 8, v3 16, v4 32, v5e 16, v5p 95, v6e 32) less
# what the runtime keeps. v2, v3 and v7x have two devices a chip, the rest one.
_TPU_GIB = {
  "TPU v2": 7.48,
  "TPU v3": 15.48,
  "TPU v4": 30.75,
  "TPU v5 lite": 15.75,
  "TPU v5": 95.74,
  "TPU v6 lite": 31.25,
  "TPU7x": 94.75,
}

# Without these, libtpu looks for the machine's TPUs, asks a metadata server
# about them, and refuses to be loaded by two processes.
_NO_TPU_HERE = {
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
  "TPU_ACCELERATOR_TYPE": "v3-8",
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
}

# How much the compiler wanted, in its two ways to say it.
_WANTED = re.compile(r"(?:Used |temporaries \()([\d.]+)([KMG])")
_UNITS = {"K": 2**10, "M": 2**20, "G": GIB}


@dataclasses.dataclass(frozen=True)
class Needs:
  """What one step needs of one device.

  Attributes:
    argument_bytes: state and batch.
    temp_bytes: activations, gradients and what else lives during the step.
    code_bytes: the program.
    output_bytes: what does not take the place of an argument.
    flops: of one step on one device.
    bytes_accessed: likewise, memory traffic.
    estimated_secs: of a step, by the compiler's model; 0 where it has none.
    trace_secs: it took to trace and lower the step.
    compile_secs: it took to compile it.
    refusal: what the compiler said where it gave up for lack of memory. Then
      temp_bytes is what it wanted, if it said so, and the rest 0.
  """

  argument_bytes: int
  temp_bytes: int = 0
  code_bytes: int = 0
  output_bytes: int = 0
  flops: float = 0.0
  bytes_accessed: float = 0.0
  estimated_secs: float = 0.0
  trace_secs: float = 0.0
  compile_secs: float = 0.0
  refusal: str = ""

  @property
  def total_bytes(self) -> int:
    """What must be free on a device for the step to run."""
    parts = (self.argument_bytes, self.temp_bytes, self.code_bytes)
    return sum(parts) + self.output_bytes


def topology_devices(name: str) -> list[Any]:
  """Returns devices that can be compiled for, but not run on.

  Args:
    name: of a TPU topology in chips, e.g. v3:16x16, v4:4x4x8 or v5e:1x1.

  Raises:
    InputError: there is no such topology, or libtpu is not installed.
  """
  if importlib.util.find_spec("libtpu") is None:
    raise InputError(
      f"--topology={name} needs libtpu: pip install -e '.[preflight]'"
    )
  for key, value in _NO_TPU_HERE.items():
    os.environ.setdefault(key, value)
  options: dict[str, Any] = {}
  chips = re.fullmatch(r"\w+:(\d+(?:x\d+)*)", name)
  count = math.prod(map(int, chips[1].split("x"))) if chips else 0
  if count == 1:
    options["chips_per_host_bounds"] = (1, 1, 1)
  if name.startswith("v4:"):
    # As on Cloud TPU, a chip's two cores are one device.
    options["chip_config_name"] = "megacore"
  try:
    if not count:  # libtpu 0.0.52 divides by it, which ends the process.
      raise ValueError("no chips")
    described = topologies.get_topology_desc(
      platform="tpu", topology_name=name, **options
    )
  # What libtpu raises depends on where it finds fault.
  except Exception as error:
    raise InputError(
      f"--topology={name}: expected a TPU generation and its chips, e.g. "
      f"v3:16x16, v4:4x4x8, v5e:4x8, v5p:2x2x4 or v6e:2x2 ({one_line(error)})"
    ) from error
  return list(described.devices)


def usable_bytes(device: Any) -> int:
  """Returns what a program may use of a device's memory; 0: unknown."""
  if device.device_kind in _TPU_GIB:
    return int(_TPU_GIB[device.device_kind] * GIB)
  stats = device.memory_stats() or {}
  return stats.get("bytes_limit", 0)


def compiler_version(device: Any) -> str:
  """Returns the package that compiles for a device, and its version."""
  package = "libtpu" if device.platform == "tpu" else "jaxlib"
  try:
    return f"{package} {importlib.metadata.version(package)}"
  except importlib.metadata.PackageNotFoundError:
    return package


def device_bytes(tree: Any) -> int:
  """Returns the bytes that one device holds of abstract arrays.

  Args:
    tree: of arrays or jax.ShapeDtypeStruct; without a sharding a device holds
      the whole.
  """

  def shape(x):
    return x.sharding.shard_shape(x.shape) if x.sharding else x.shape

  return sum(
    math.prod(shape(x)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
  )


def argument_bytes(config: Config, mesh: Mesh) -> int:
  """Returns what state and batch take on a device, without compiling."""
  return device_bytes(
    (
      step.make_abstract_state(config, mesh),
      step.make_abstract_batch(config, mesh),
    )
  )


def compile_step(config: Config, mesh: Mesh) -> Needs:
  """Compiles the update step of a resolved config for a mesh's devices."""
  return compile_function(
    step.make_update_step(config, mesh),
    step.make_abstract_state(config, mesh),
    step.make_abstract_batch(config, mesh),
    accum_steps=config.optim.accum_steps,
  )[1]


def compile_function(
  function: Callable[..., Any], *arguments: Any, accum_steps: int = 1
) -> tuple[Any, Needs]:
  """Compiles a jitted function without calling it.

  `bytes_accessed` tells in how many passes over memory it is done: the same
  number on every run, whatever else the machine does, and whatever the level
  of optimization below HLO.

  Args:
    function: of `jax.jit`.
    *arguments: trees of arrays or jax.ShapeDtypeStruct; their shardings, if
      any, say what devices it is compiled for.
    accum_steps: how often the body of its loop runs, if it has one.

  Returns:
    The `jax.stages.Compiled`, to be called; None where the compiler gave up for
    lack of memory. And what it needs.
  """
  start = time.monotonic()
  lowered = function.lower(*arguments)
  lowered_at = time.monotonic()
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    return None, refused(str(error), device_bytes(arguments))
  return compiled, needs_of(
    compiled,
    accum_steps=accum_steps,
    trace_secs=lowered_at - start,
    compile_secs=time.monotonic() - lowered_at,
  )


def refused(message: str, arguments: int) -> Needs:
  """Returns what is known where the compiler found too little memory.

  Args:
    message: the compiler's.
    arguments: bytes of state and batch.
  """
  wanted = _WANTED.search(message)
  return Needs(
    argument_bytes=arguments,
    temp_bytes=int(float(wanted[1]) * _UNITS[wanted[2]]) if wanted else 0,
    refusal=one_line(message.strip().split("\n")[0])
    .removeprefix("RESOURCE_EXHAUSTED: ")
    .rstrip("."),
  )


def needs_of(
  compiled: Any, *, accum_steps: int, trace_secs: float, compile_secs: float
) -> Needs:
  """Reads what the compiler says of a step.

  Args:
    compiled: a `jax.stages.Compiled`.
    accum_steps: of the config.
    trace_secs: see Needs.
    compile_secs: likewise.
  """
  memory = compiled.memory_analysis()
  costs = compiled.cost_analysis() or {}
  if isinstance(costs, Sequence):
    costs = costs[0]
  return Needs(
    argument_bytes=memory.argument_size_in_bytes,
    temp_bytes=memory.temp_size_in_bytes,
    code_bytes=memory.generated_code_size_in_bytes,
    output_bytes=memory.output_size_in_bytes - memory.alias_size_in_bytes,
    # The compiler counts the body of a loop once, whatever the trip count; all
    # of the step but the update of the parameters is in accumulation's.
    flops=costs.get("flops", 0.0) * accum_steps,
    bytes_accessed=costs.get("bytes accessed", 0.0) * accum_steps,
    estimated_secs=max(0.0, costs.get("optimal_seconds", 0.0)),
    trace_secs=trace_secs,
    compile_secs=compile_secs,
  )
