"""Compiles a step ahead of time and reports its memory and cost per device.

The devices are those of this machine or those of a TPU topology: libtpu
compiles for a whole pod on any x86 machine, without a TPU.
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
from bit_jax.parallel import sharding
from bit_jax.preflight import host_memory
from bit_jax.recipe.load import Config
from bit_jax.run import start, step

GIB = 2**30
_SHARE_OF_HOST = 0.8

# Memory in GiB that a program may use on one device. The numbers are the
# compiler's own ("exceeds available HBM (15.48G)", libtpu 0.0.42): the memory
# by Cloud TPU's documentation (v2 8, v3 16, v4 32, v5e 16, v5p 95, v6e 32) less
# what the runtime reserves. v2, v3 and v7x have two devices per chip, the
# others one.
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

# The memory that the compiler asked for, in both forms of its error message.
_WANTED = re.compile(r"(?:Used |temporaries \()([\d.]+)([KMG])")
_UNITS = {"K": 2**10, "M": 2**20, "G": GIB}


@dataclasses.dataclass(frozen=True)
class StepCost:
  """Memory and cost of one step on one device.

  Attributes:
    argument_bytes: Size of state and batch.
    temp_bytes: Size of activations, gradients and everything else that exists
      only during the step.
    code_bytes: Size of the program.
    output_bytes: Size of the outputs that do not reuse an argument's memory.
    flops: Floating-point operations of one step on one device.
    bytes_accessed: Memory traffic of one step on one device, in bytes.
    estimated_secs: Duration of a step by the compiler's model; 0 if the
      compiler has none.
    trace_secs: Time spent on tracing and lowering the step.
    compile_secs: Time spent on compiling the step.
    refusal: The compiler's message if it gave up for lack of memory, else ''.
      After a refusal temp_bytes is what the compiler asked for, if its message
      says so, and all other fields but argument_bytes are 0.
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
    """Memory that must be free on a device for the step to run."""
    parts = (self.argument_bytes, self.temp_bytes, self.code_bytes)
    return sum(parts) + self.output_bytes


def topology_devices(name: str) -> list[Any]:
  """Returns the devices of a TPU topology, to compile for but not to run on.

  Args:
    name: The topology in chips, e.g. v3:16x16, v4:4x4x8 or v5e:1x1.

  Raises:
    InputError: There is no such topology, or libtpu is not installed.
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
    # On Cloud TPU the two cores of a chip act as one device.
    options["chip_config_name"] = "megacore"
  try:
    # libtpu 0.0.52 divides by the count, which would kill the process.
    if not count:
      raise ValueError("no chips")
    described = topologies.get_topology_desc(
      platform="tpu", topology_name=name, **options
    )
  # libtpu raises different types for different faults in the name.
  except Exception as error:
    raise InputError(
      f"--topology={name}: expected a TPU generation and its chips, e.g. "
      f"v3:16x16, v4:4x4x8, v5e:4x8, v5p:2x2x4 or v6e:2x2 ({one_line(error)})"
    ) from error
  return list(described.devices)


def topology_mesh(name: str) -> Mesh:
  """Returns a mesh of all `topology_devices`; JAX then leaves others alone."""
  # Nothing runs here, so an accelerator stays free for other processes.
  jax.config.update("jax_platforms", "cpu")
  return sharding.make_mesh(topology_devices(name))


def usable_bytes(device: Any) -> int:
  """Returns the memory a program may use on a device; 0 if unknown."""
  if device.device_kind in _TPU_GIB:
    return int(_TPU_GIB[device.device_kind] * GIB)
  if device.platform == "cpu":
    # The CPU devices of a process share the machine's memory, and the process
    # needs some for its data.
    found = _SHARE_OF_HOST * host_memory.available_bytes()
    return int(found / jax.local_device_count("cpu"))
  stats = device.memory_stats() or {}
  return stats.get("bytes_limit", 0)


def compiler_version(device: Any) -> str:
  """Returns name and version of the package that compiles for a device."""
  package = "libtpu" if device.platform == "tpu" else "jaxlib"
  try:
    return f"{package} {importlib.metadata.version(package)}"
  except importlib.metadata.PackageNotFoundError:
    return package


def device_bytes(tree: Any) -> int:
  """Returns how many bytes of some arrays one device holds.

  Args:
    tree: Arrays or jax.ShapeDtypeStruct; one without a sharding counts whole.
  """

  def shape(x):
    return x.sharding.shard_shape(x.shape) if x.sharding else x.shape

  return sum(
    math.prod(shape(x)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
  )


def argument_bytes(config: Config, mesh: Mesh) -> int:
  """Returns the bytes of state and batch on one device, without compiling."""
  spec, fixed = start.make_spec(config, mesh)
  state, batch = step.make_abstract_state(spec), abstract_batch(config, spec)
  return device_bytes((state, batch, fixed))


def compile_step(config: Config, mesh: Mesh) -> StepCost:
  """Compiles the update step of a resolved config for the devices of a mesh."""
  spec, fixed = start.make_spec(config, mesh)
  return compile_spec(spec, config, fixed)


def compile_spec(spec: step.StepSpec, config: Config, fixed: Any) -> StepCost:
  """Compiles an update step.

  Args:
    spec: What the step depends on.
    config: A resolved config, which gives the shape of a batch.
    fixed: The objective's fixed arrays, or jax.ShapeDtypeStruct.
  """
  return compile_function(
    step.make_update_step(spec),
    step.make_abstract_state(spec),
    abstract_batch(config, spec),
    fixed,
    accum_steps=spec.accum_steps,
  )[1]


def abstract_batch(config: Config, spec: step.StepSpec) -> Any:
  """Returns the batch of a resolved config as jax.ShapeDtypeStruct."""
  return step.make_abstract_batch(
    spec, config.input.batch_size, config.resolved.crop_px
  )


def compile_function(
  function: Callable[..., Any], *arguments: Any, accum_steps: int = 1
) -> tuple[Any, StepCost]:
  """Compiles a jitted function without calling it.

  `bytes_accessed` shows how many passes over memory the function makes. Unlike
  a time it is the same on every run, whatever else the machine does, and at
  every level of optimization below HLO.

  Args:
    function: A function wrapped by `jax.jit`.
    *arguments: Trees of arrays or jax.ShapeDtypeStruct. Their shardings, if
      any, determine the devices to compile for.
    accum_steps: Trip count of the function's loop, if it has one.

  Returns:
    (compiled, cost): the callable `jax.stages.Compiled`, or None if the
    compiler gave up for lack of memory, and the memory and cost.
  """
  start = time.monotonic()
  lowered = function.lower(*arguments)
  lowered_at = time.monotonic()
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    return None, refused_cost(str(error), device_bytes(arguments))
  return compiled, read_cost(
    compiled,
    accum_steps=accum_steps,
    trace_secs=lowered_at - start,
    compile_secs=time.monotonic() - lowered_at,
  )


def refused_cost(message: str, arguments: int) -> StepCost:
  """Returns the cost of a step that the compiler refused for lack of memory.

  Args:
    message: The compiler's error message.
    arguments: Bytes of state and batch.
  """
  wanted = _WANTED.search(message)
  return StepCost(
    argument_bytes=arguments,
    temp_bytes=int(float(wanted[1]) * _UNITS[wanted[2]]) if wanted else 0,
    refusal=one_line(message.strip().split("\n")[0])
    .removeprefix("RESOURCE_EXHAUSTED: ")
    .rstrip("."),
  )


def read_cost(
  compiled: Any, *, accum_steps: int, trace_secs: float, compile_secs: float
) -> StepCost:
  """Reads memory and cost from a compiled step.

  Args:
    compiled: A `jax.stages.Compiled`.
    accum_steps: Parts in which the step accumulates gradients.
    trace_secs: Time spent on tracing and lowering the step.
    compile_secs: Time spent on compiling the step.
  """
  memory = compiled.memory_analysis()
  costs = compiled.cost_analysis() or {}
  if isinstance(costs, Sequence):
    costs = costs[0]
  return StepCost(
    argument_bytes=memory.argument_size_in_bytes,
    temp_bytes=memory.temp_size_in_bytes,
    code_bytes=memory.generated_code_size_in_bytes,
    output_bytes=memory.output_size_in_bytes - memory.alias_size_in_bytes,
    # The compiler counts the body of a loop once, whatever its trip count.
    # Everything but the parameter update is in the body of the accumulation.
    flops=costs.get("flops", 0.0) * accum_steps,
    bytes_accessed=costs.get("bytes accessed", 0.0) * accum_steps,
    estimated_secs=max(0.0, costs.get("optimal_seconds", 0.0)),
    trace_secs=trace_secs,
    compile_secs=compile_secs,
  )
