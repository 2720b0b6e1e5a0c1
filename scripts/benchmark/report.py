"""Formats results of the benchmark as tables; describes the environment."""

import datetime
import importlib.metadata
import pathlib
import platform
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bit_jax.data import pipeline

_GIB = 2**30
_PACKAGES = (
  *("jax", "jaxlib", "flax", "optax", "libtpu", "numpy"),
  *("opencv-python-headless", "torch", "timm", "tensorflow"),
)


def environment(argv: Sequence[str]) -> dict[str, Any]:
  """Returns command, date, machine and package versions, for JSON."""
  versions = {"python": platform.python_version()}
  for name in _PACKAGES:
    try:
      versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return {
    "command": shlex.join(("python", "-m", "scripts.benchmark", *argv)),
    "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    "cpu": _cpu_name(),
    "cores": pipeline.num_cores(),
    "versions": versions,
  }


def _cpu_name() -> str:
  info = pathlib.Path("/proc/cpuinfo")
  if info.exists():
    for line in info.read_text().splitlines():
      if line.startswith("model name"):
        return line.partition(":")[2].strip()
  return platform.processor() or platform.machine()


def header(where: Mapping[str, Any]) -> str:
  """Returns the result of `environment` as text."""
  versions = ", ".join(f"{k} {v}" for k, v in where["versions"].items())
  return (
    f"{where['command']}\n{where['date']}, {where['cpu']}, {where['cores']} "
    f"cores\n{versions}"
  )


def align(rows: Sequence[Mapping[str, str]]) -> str:
  """Returns rows {column: text} as a table with columns of even width."""
  columns = list(dict.fromkeys(key for row in rows for key in row))
  lines = [columns, *([row.get(c, "") for c in columns] for row in rows)]
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  return "\n".join(
    "  ".join(
      # The first two columns hold words, the others numbers.
      text.ljust(width) if i < 2 else text.rjust(width)
      for i, (text, width) in enumerate(zip(line, widths, strict=True))
    ).rstrip()
    for line in lines
  )


def label(case: Mapping[str, Any]) -> str:
  """Returns a short name of a case, given as in JSON."""
  if case["mode"] == "input":
    parts = [case["mode"], f"{case['px']} px", f"batch {case['batch']}"]
  else:
    parts = [
      *(case["mode"], case["variant"], case["dtype"], f"{case['px']} px"),
      f"batch {case['batch']}",
    ]
  return " ".join((*parts, *case["overrides"]))


def _spread(found: Mapping[str, Any], scale: float = 1.0, digits: int = 1):
  middle, low, high = (
    f"{scale * found[key]:.{digits}f}" for key in ("median", "min", "max")
  )
  return f"{middle} ({low}-{high})"


def _memory(memory: Mapping[str, int]) -> str:
  names = {
    "peak_bytes": "peak",
    "rss_bytes": "RSS",
    "compiler_bytes": "compiler",
  }
  for key, name in names.items():
    if key in memory:
      return f"{memory[key] / _GIB:.2f} ({name})"
  return ""


def _largest(subject: Mapping[str, Any]) -> str:
  batch = subject["max_batch"]
  if not subject.get("extrapolated"):
    return str(batch)
  # Extrapolation needs two compiled batches; without them the result is 0.
  return f"{batch} (extrapolated)" if batch else "unknown"


def _tflops(peak: Mapping[str, Any]) -> str:
  rate = peak["flops_per_sec"] / 1e12
  shown = f"{rate:.3f}" if rate < 10 else f"{rate:.1f}"
  return shown + ("*" if peak["measured"] else "")


def _timed_row(
  subject: Mapping[str, Any], peak: Mapping[str, Any] | None
) -> dict[str, str]:
  row = {
    "images/s": f"{subject['images_per_sec']:.1f}",
    "ms a step": _spread(subject["step_secs"], 1e3),
  }
  if "images_per_sec_per_core" in subject:
    row["images/s a core"] = f"{subject['images_per_sec_per_core']:.1f}"
  if peak:
    row["MFU"] = f"{subject['mfu']:.1%}"
    row["of TFLOP/s"] = _tflops(peak)
    row["GiB"] = _memory(subject["memory"])
    row["compiled in s"] = (
      f"{subject['compile_secs']:.1f}" if subject["compile_secs"] else ""
    )
  if "first_is_faster" in subject:
    row["bit_jax is x faster"] = _spread(subject["first_is_faster"], digits=2)
  return row


def _aot_row(result: Mapping[str, Any]) -> dict[str, str]:
  cost = result["needs"]
  if cost["refusal"]:
    return {"of": result["topology"], "refused": cost["refusal"]}
  return {
    "of": result["topology"],
    "GB accessed": f"{cost['bytes_accessed'] / 1e9:.3f}",
    "GiB arguments": f"{cost['argument_bytes'] / _GIB:.3f}",
    "GiB temporaries": f"{cost['temp_bytes'] / _GIB:.3f}",
    "GFLOPs": f"{cost['flops'] / 1e9:.1f}",
    "ms estimated": f"{1e3 * cost['estimated_secs']:.2f}",
    "compiled in s": f"{cost['compile_secs']:.0f}",
  }


def rows(result: Mapping[str, Any]) -> list[dict[str, str]]:
  """Returns the table rows {column: text} of one result."""
  name = label(result["case"])
  if "error" in result:
    return [{"case": name, "of": "failed", "": result["error"]}]
  if "needs" in result and "subjects" not in result:
    return [{"case": name, **_aot_row(result)}]
  found = []
  for subject in result["subjects"]:
    row = {"case": name, "of": subject["name"]}
    if "step_secs" in subject:
      row |= _timed_row(subject, result.get("peak"))
    elif "first_step_secs" in subject:
      row["s to the first step"] = _spread(subject["first_step_secs"])
      for part, secs in subject["parts_secs"].items():
        row[f"s {part}"] = _spread(secs)
    else:
      if "memory_gib" in subject:
        row["GiB"] = f"{subject['memory_gib']:g}"
      row["largest batch"] = _largest(subject)
      if "first_is_larger" in subject:
        row["bit_jax is x larger"] = f"{subject['first_is_larger']:.2f}"
    found.append(row)
  return found


def tables(results: Iterable[Mapping[str, Any]]) -> str:
  """Returns a table for each kind of result, followed by notes."""
  groups: dict[Any, list[dict[str, str]]] = {}
  notes: dict[str, None] = {}
  for result in results:
    for row in rows(result):
      # Results with mostly the same columns share a table; failures have one of
      # their own.
      groups.setdefault(_kind(result), []).append(row)
    if device := result.get("device"):
      notes[f"on {device['count']} x {device['kind']}"] = None
    if peak := result.get("peak"):
      mark = "*" if peak["measured"] else "of"
      notes[f"{mark} a device's peak: {peak['what']}"] = None
    if "compiler" in result:
      notes[f"compiled by {result['compiler']}"] = None
    notes |= dict.fromkeys(result.get("notes", ()))
  return "\n".join((*map(align, groups.values()), *notes))


def _kind(result: Mapping[str, Any]) -> str:
  if "error" in result:
    return "failed"
  if "topology" in result:
    return f"aot {'max_batch' if 'subjects' in result else ''}"
  mode = result["case"]["mode"]
  return "timed" if mode in ("train", "infer") else mode
