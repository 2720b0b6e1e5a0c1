"""Writes an HTML page that shows training runs side by side."""

import collections
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bit_jax import progress
from bit_jax.errors import InputError
from bit_jax.report import configs, page
from bit_jax.storage import files, user_paths
from bit_jax.writers import metric_text, metrics_file

# Columns of numbers, and of runs, that fit a page of 1280 px beside the others.
_NUMBERS_IN_FIRST, _NUMBERS_IN_NEXT, _RUNS_SIDE_BY_SIDE = 5, 8, 5


_OF_TRAINING = ("train/loss", "train/accuracy", "train/mixed_accuracy")


def write(path: str | Path, workdirs: Sequence[str | Path]) -> None:
  """Writes the page of several runs.

  Args:
    path: The HTML file to write; its folder is created if missing.
    workdirs: Work directories of the runs, finished or not.

  Raises:
    InputError: A work directory or its metrics.jsonl is missing, one of its
      files is malformed, or the page cannot be written.
  """
  # Resolved paths identify a directory that is given twice.
  given = [user_paths.local(str(workdir)) for workdir in workdirs]
  paths = {workdir.resolve(): workdir for workdir in given}
  runs = []
  with progress.activity("reading runs", len(paths), "runs") as doing:
    for workdir in paths.values():
      runs.append(_read_run(workdir))
      doing.add()
  names = [run["name"] for run in runs]
  for run, workdir in zip(runs, paths.values(), strict=True):
    if names.count(run["name"]) > 1:
      run["name"] = str(workdir)
  metrics = _merge_keys(run["curves"] for run in runs)
  curves = [
    (
      f"{metric}, %" if metric_text.is_share(metric) else metric,
      [
        (run["name"], *_in_percent(metric, *run["curves"][metric]))
        for run in runs
        if metric in run["curves"]
      ],
    )
    for metric in metrics
    # The number of examples is no curve.
    if metric_text.is_for_people(metric) and not metric.endswith("/examples")
  ]
  body = [
    *_runs_tables(runs),
    *_differences(runs),
    *page.charts(curves),
    page.paragraph(_gaps(runs)),
  ]
  plural = "" if len(runs) == 1 else "s"
  page.write(path, f"{len(runs)} training run{plural}", body)


def _read_run(workdir: Path) -> dict[str, Any]:
  """Reads the config, curves and final metrics of one work directory."""
  if not workdir.is_dir():
    raise InputError(f"{workdir}: there is no such work directory")
  path = workdir / metrics_file.METRICS_FILE
  if not path.exists():
    raise InputError(
      f"{workdir}: expected the work directory of a run, with a "
      f"{metrics_file.METRICS_FILE}"
    )
  curves = metrics_file.read_curves(path)
  config = _read_json(workdir / "config.json")
  result = _read_json(workdir / "result.json")
  last = {metric: values[-1] for metric, (_, values) in curves.items()}
  final = {
    metric: value
    for metric, value in (last | result).items()
    if metric in _OF_TRAINING or metric.startswith("eval/")
    if type(value) in (int, float)
  }
  return {
    "name": workdir.resolve().name,
    "dataset": _get(config, "data", "name"),
    "model": _get(config, "model", "variant"),
    "steps": max((steps[-1] for steps, _ in curves.values()), default=0),
    "config": config,
    "note": _note(result),
    "final": final,
    "curves": curves,
  }


def _read_json(path: Path) -> dict[str, Any]:
  """Returns the JSON object in a file; {} if there is no such file."""
  return files.read_json(path) if path.exists() else {}


def _get(config: dict[str, Any], section: str, key: str) -> str:
  """Returns config[section][key] as text; '' if the config lacks it."""
  values = config.get(section)
  return str(values[key]) if isinstance(values, dict) and key in values else ""


def _merge_keys(mappings: Any) -> list[str]:
  """Returns all keys without repetition, in the order of appearance."""
  return list(dict.fromkeys(key for mapping in mappings for key in mapping))


def _note(result: dict[str, Any]) -> str:
  """Returns what the number of steps does not say of a run."""
  if not result:
    return "not finished"
  notes = ["ended early"] if result.get("stopped_early") else []
  if "best_step" in result:
    notes.append(f"best at {result['best_step']:,}")
  return "</small><small>".join(notes)


def _runs_tables(runs: Sequence[dict[str, Any]]) -> Iterator[str]:
  """Yields tables with a row for each run; many metrics take several."""
  metrics = _merge_keys(run["final"] for run in runs)
  metrics.sort(key=lambda name: name.endswith("/examples"))
  first, rest = metrics[:_NUMBERS_IN_FIRST], metrics[_NUMBERS_IN_FIRST:]
  rows = []
  for run in runs:
    steps = f"{run['steps']:,}"
    steps += f"<small>{run['note']}</small>" if run["note"] else ""
    rows.append([run["name"], run["dataset"], run["model"], steps])
  yield page.table(
    ["Run", "Data set", "Model", "Steps", *first],
    [row + _values(run, first) for row, run in zip(rows, runs, strict=True)],
    "Final metrics of each run, or the latest ones of an unfinished run.",
    num_texts=3,
  )
  for part in _batched(rest, _NUMBERS_IN_NEXT):
    yield page.table(
      ["Run", *part],
      [[run["name"], *_values(run, part)] for run in runs],
      "More of the same.",
    )


def _differences(runs: Sequence[dict[str, Any]]) -> Iterator[str]:
  """Yields tables with the config keys that differ, one row for each."""
  changed = configs.differences([run["config"] for run in runs])
  if not changed:
    return
  yield "<h2>What differs between the configs</h2>"
  for part in _batched(range(len(runs)), _RUNS_SIDE_BY_SIDE):
    yield page.table(
      ["Key", *(runs[i]["name"] for i in part)],
      [[key, *(values[i] for i in part)] for key, values in changed.items()],
      "Values of config.json; empty where a run's commit had no such key.",
      num_texts=1 + len(part),
    )


def _values(run: dict[str, Any], metrics: Sequence[str]) -> list[str]:
  return [_number(name, run["final"].get(name)) for name in metrics]


def _batched(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
  return (items[i : i + size] for i in range(0, len(items), size))


def _in_percent(
  metric: str, steps: list[int], values: list[float | None]
) -> tuple[list[int], list[float | None]]:
  if not metric_text.is_share(metric):
    return steps, values
  return steps, [None if v is None else 100 * v for v in values]


def _gaps(runs: Sequence[dict[str, Any]]) -> str:
  """Returns a paragraph about the steps that the curves leave out."""
  by_gap: dict[int, list[str]] = {}
  for run in runs:
    steps, _ = run["curves"].get("train/loss", ([], []))
    gaps = collections.Counter(b - a for a, b in itertools.pairwise(steps))
    if gaps:
      by_gap.setdefault(gaps.most_common(1)[0][0], []).append(run["name"])
  if not by_gap:
    return ""
  parts = [
    ("every step" if gap == 1 else f"every {gap} steps")
    + (f" ({', '.join(names)})" if len(by_gap) > 1 else "")
    for gap, names in sorted(by_gap.items())
  ]
  return (
    f"Points of training are single batches, logged {' and '.join(parts)} "
    f"(config.log_every_steps); the lines between them are drawn, not "
    f"measured. Of more than 400 points, the lowest and the highest of each "
    f"stretch are shown."
  )


def _number(name: str, value: float | None) -> str:
  return page.NONE if value is None else metric_text.number(name, value, 4)
