"""Counts model FLOPs and computes MFU, the share of a device's peak.

MFU has the usual definition: the multiplications and additions of the model's
convolutions and dense layers, without recomputation, divided by time and by the
device's dense peak. A training step counts as three forward passes.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

# Dense TFLOP/s (without sparsity) of one JAX device: (pattern of device_kind,
# {precision: peak}, source). v2, v3 and v7x have two devices per chip. The
# first match counts.
_PEAKS: tuple[tuple[str, dict[str, float], str], ...] = (
  (
    r"H100 PCIe",
    {"bfloat16": 756.5, "tf32": 378.2, "float32": 51.2},
    "NVIDIA H100 datasheet, PCIe",
  ),
  (
    r"H100 NVL",
    {"bfloat16": 835.5, "tf32": 417.5, "float32": 60.0},
    "NVIDIA H100 datasheet, NVL",
  ),
  (
    r"H[12]00",
    {"bfloat16": 989.4, "tf32": 494.7, "float32": 66.9},
    "NVIDIA H100 and H200 datasheets, SXM",
  ),
  (
    r"A100",
    {"bfloat16": 312.0, "tf32": 156.0, "float32": 19.5},
    "NVIDIA A100 datasheet",
  ),
  # V100's tensor cores support neither TF32 nor bfloat16.
  (r"V100-PCIE", {"float32": 14.0}, "NVIDIA V100 datasheet, PCIe"),
  (r"V100", {"float32": 15.7}, "NVIDIA V100 datasheet, SXM2"),
  (r"^TPU v2$", {"bfloat16": 22.5}, "Cloud TPU documentation, 45 a chip"),
  (r"^TPU v3$", {"bfloat16": 61.5}, "Cloud TPU documentation, 123 a chip"),
  (r"^TPU v4$", {"bfloat16": 275.0}, "Cloud TPU documentation"),
  (r"^TPU v5 lite$|^TPU v5e$", {"bfloat16": 197.0}, "Cloud TPU documentation"),
  (r"^TPU v5p?$", {"bfloat16": 459.0}, "Cloud TPU documentation"),
  (r"^TPU v6 lite$|^TPU v6e$", {"bfloat16": 918.0}, "Cloud TPU documentation"),
  (r"^TPU7x$", {"bfloat16": 1153.5}, "Cloud TPU documentation, 2307 a chip"),
)


@dataclasses.dataclass(frozen=True)
class Peak:
  """The peak rate of a device.

  Attributes:
    flops_per_sec: FLOP/s of one device.
    what: Precision and source in words.
    measured: True if `measure_peak` measured it; False for the maker's number.
  """

  flops_per_sec: float
  what: str
  measured: bool = False


def known_peak(device_kind: str, dtype: str, *, tf32: bool) -> Peak | None:
  """Returns the peak by the makers' tables; None for an unknown device.

  Args:
    device_kind: The `device_kind` of a JAX device.
    dtype: Dtype of the convolutions: float32 or bfloat16.
    tf32: Allows float32 to be multiplied as TF32 if the device can.
  """
  for pattern, peaks, source in _PEAKS:
    if not re.search(pattern, device_kind):
      continue
    precision = dtype
    if dtype == "float32" and "tf32" in peaks and tf32:
      precision = "tf32"
    if dtype == "float32" and device_kind.startswith("TPU"):
      # A TPU multiplies bfloat16 only; float32 takes one or several passes.
      precision = "bfloat16"
    if precision not in peaks:
      return None
    what = f"{precision} dense, {source}"
    return Peak(peaks[precision] * 1e12, what)
  return None


def measure_peak(
  device: Any,
  dtype: str,
  *,
  clock: Callable[[], float],
  size: int = 2048,
  rounds: int = 5,
) -> Peak:
  """Measures the peak by multiplying square matrices.

  Args:
    device: A JAX device.
    dtype: float32 or bfloat16. On a CPU the faster of both counts, as many CPUs
      have units for float32 only.
    clock: Returns the time in seconds.
    size: Rows of the matrices.
    rounds: Number of multiplications, of which the fastest counts.
  """
  kinds = ("float32", dtype) if device.platform == "cpu" else (dtype,)
  best, name = math.inf, dtype
  for kind in dict.fromkeys(kinds):
    x = jax.device_put(jnp.ones((size, size), kind), device)
    multiply = jax.jit(jnp.matmul)
    multiply(x, x).block_until_ready()
    for _ in range(rounds):
      start = clock()
      multiply(x, x).block_until_ready()
      secs = clock() - start
      if secs < best:
        best, name = secs, kind
  return Peak(
    2 * size**3 / best,
    f"{name}, measured with a matmul of {size}^3",
    measured=True,
  )


def find_peak(
  device: Any, dtype: str, *, tf32: bool, clock: Callable[[], float]
) -> Peak:
  """Returns the peak of a device by the makers' tables, else a measured one."""
  known = known_peak(device.device_kind, dtype, tf32=tf32)
  return known or measure_peak(device, dtype, clock=clock)


def mfu(flops: float, secs: float, peak: Peak, num_devices: int) -> float:
  """Returns the share of the devices' peak that a step uses.

  Args:
    flops: FLOPs of a step on all devices together.
    secs: Duration of a step.
    peak: Peak of one device.
    num_devices: Number of devices that share the step.
  """
  return flops / (secs * peak.flops_per_sec * num_devices)


def matmul_flops(function: Callable[..., Any], *arguments: Any) -> int:
  """Counts the FLOPs of convolutions and matrix products, without running them.

  A multiplication and an addition count as two FLOPs, and products with padding
  count as well.

  Args:
    function: A function of arrays that JAX can trace.
    *arguments: Arrays or jax.ShapeDtypeStruct.
  """
  return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(jaxpr: Any) -> int:
  total = 0
  for eqn in jaxpr.eqns:
    out, params = eqn.outvars[0].aval, eqn.params
    if eqn.primitive.name == "conv_general_dilated":
      kernel = eqn.invars[1].aval
      output_axis = params["dimension_numbers"].rhs_spec[0]
      total += 2 * out.size * (kernel.size // kernel.shape[output_axis])
    elif eqn.primitive.name == "dot_general":
      (contracted, _), _ = params["dimension_numbers"]
      left = eqn.invars[0].aval.shape
      total += 2 * out.size * math.prod(left[i] for i in contracted)
    times = params["length"] if eqn.primitive.name == "scan" else 1
    # Only one branch runs, and branches for other devices compute the same.
    combine = max if eqn.primitive.name == "cond" else sum
    total += times * combine(map(_count, _inner(params)))
  return total


def _inner(params: dict[str, Any]) -> Iterator[Any]:
  """Yields the jaxprs that an operation calls."""
  for value in params.values():
    for item in value if isinstance(value, tuple | list) else (value,):
      item = getattr(item, "jaxpr", item)
      if hasattr(item, "eqns"):
        yield item
