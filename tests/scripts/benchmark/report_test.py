import dataclasses
import re

from bit_jax.preflight import aot
from scripts.benchmark import report as report
from scripts.benchmark import steps
from scripts.benchmark.flags import Case

CASE = dataclasses.asdict(
  Case("train", "R50x1", 224, 32, "bfloat16", ("model.norm=gn",))
)


def timed(name, secs, **more):
  return {
    "name": name,
    "images_per_sec": 32 / secs,
    "step_secs": steps.summary([secs, secs / 2, secs * 2]),
    "mfu": 0.25,
    "memory": {},
    "compile_secs": 0.0,
    **more,
  }


def result(*subjects, **more):
  return {
    "case": CASE,
    "device": {"kind": "NVIDIA H200", "count": 1, "platform": "gpu"},
    "subjects": subjects,
    "notes": ["a note"],
    **more,
  }


PEAK = {"flops_per_sec": 989.4e12, "what": "dense", "measured": False}


def test_environment_and_header():
  where = report.environment(["--px=1", "--sweep=a b"])
  assert where["command"].endswith("benchmark --px=1 '--sweep=a b'")
  assert {"python", "jax", "jaxlib"} <= where["versions"].keys()
  assert where["cores"] >= 1
  assert where["cpu"]
  assert re.match(r"\d{4}-\d\d-\d\dT[\d:]+[+-]", where["date"])
  text = report.header(where)
  for part in (where["command"], where["date"], "jaxlib ", where["cpu"]):
    assert part in text


def test_columns_are_aligned():
  text = report.align([{"a": "xx", "b": "y", "c": "1"}, {"a": "x", "c": "222"}])
  assert text == "a   b    c\nxx  y    1\nx      222"


def test_timings():
  ours = timed(
    "bit_jax",
    0.1,
    memory={"peak_bytes": 3 * 2**30, "compiler_bytes": 2**30},
    compile_secs=12.34,
  )
  theirs = timed("timm", 0.15, first_is_faster=steps.summary([1.25, 1.5, 1.75]))
  text = report.tables([result(ours, theirs, peak=PEAK)])
  header, first, second, *notes = text.splitlines()
  for part in ("images/s", "ms a step", "MFU", "of TFLOP/s", "GiB"):
    assert part in header
  for part in (
    "train R50x1 bfloat16 224 px batch 32 model.norm=gn  bit_jax",
    *("320.0", "100.0 (50.0-200.0)", "25.0%", "989.4", "3.00 (peak)", "12.3"),
  ):
    assert part in first
  assert "213.3" in second
  assert second.endswith("1.50 (1.25-1.75)")
  assert notes == ["on 1 x NVIDIA H200", "of a device's peak: dense", "a note"]


def test_measured_peaks_are_marked():
  peak = {"flops_per_sec": 1.5e11, "what": "by a matmul", "measured": True}
  text = report.tables([result(timed("bit_jax", 1.0), peak=peak)])
  assert "0.150*" in text
  assert "\n* a device's peak: by a matmul" in text


def test_memory_says_what_it_is():
  for memory, text in (
    ({"rss_bytes": 2**29, "compiler_bytes": 2**30}, "0.50 (RSS)"),
    ({"compiler_bytes": 2**30}, "1.00 (compiler)"),
  ):
    found = timed("bit_jax", 1.0, memory=memory)
    assert text in report.tables([result(found, peak=PEAK)])


def test_compiled_cases():
  cost = aot.StepCost(
    2**30,
    temp_bytes=2**29,
    bytes_accessed=6.883e9,
    flops=190.8e9,
    estimated_secs=0.01632,
    compile_secs=61.2,
  )
  found = {
    "case": CASE,
    "topology": "v3:16x16",
    "compiler": "libtpu 1",
    "needs": dataclasses.asdict(cost),
    "notes": [],
  }
  text = report.tables([found])
  for part in ("v3:16x16", "6.883", "1.000", "0.500", "190.8", "16.32", "61"):
    assert part in text.splitlines()[1]
  assert "compiled by libtpu 1" in text
  refused = dataclasses.asdict(dataclasses.replace(cost, refusal="too large"))
  assert "too large" in report.tables([{**found, "needs": refused}])


def test_other_modes():
  times = steps.summary([1.0, 2.0, 3.0])
  start = {
    "name": "filled",
    "first_step_secs": times,
    "parts_secs": {"data": times},
  }
  text = report.tables([{**result(start), "case": {**CASE, "mode": "start"}}])
  assert "s to the first step" in text
  assert "s data" in text
  assert text.count("2.0 (1.0-3.0)") == 2

  row = timed("bit_jax", 0.1, images_per_sec_per_core=160.0)
  text = report.tables([{**result(row), "case": {**CASE, "mode": "input"}}])
  assert "input 224 px batch 32 model.norm=gn  bit_jax" in text
  assert "160.0" in text
  assert "MFU" not in text

  rows = (
    {"name": "bit_jax", "max_batch": 96},
    {"name": "timm", "max_batch": 64, "first_is_larger": 1.5},
    {"name": "bit_jax", "memory_gib": 15.75, "max_batch": 12},
    {
      "name": "bit_jax",
      "memory_gib": 24,
      "max_batch": 18,
      "extrapolated": True,
    },
    {"name": "bit_jax", "memory_gib": 80, "max_batch": 0, "extrapolated": True},
  )
  text = report.tables([{**result(*rows), "case": {**CASE, "mode": "x"}}])
  for part in (
    "largest batch",
    "96",
    "64",
    "1.50",
    "15.75",
    "12",
    "18 (extrapolated)",
    "unknown",
  ):
    assert part in text


def test_failures_are_in_a_table_of_their_own():
  failed = {"case": CASE, "error": "no memory"}
  text = report.tables([failed, result(timed("bit_jax", 1.0), peak=PEAK)])
  lines = text.splitlines()
  assert lines[1].endswith("failed  no memory")
  assert lines[2].startswith("case")
