"""Writes an HTML page that shows training runs side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bit_jax.errors import InputError
from bit_jax.report import page
from bit_jax.storage import files, user_paths
from bit_jax.writers import metrics_file


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
  runs = [_read_run(workdir) for workdir in paths.values()]
  names = [run["name"] for run in runs]
  for run, workdir in zip(runs, paths.values(), strict=True):
    if names.count(run["name"]) > 1:
      run["name"] = str(workdir)
  metrics = _merge_keys(run["curves"] for run in runs)
  curves = [
    (
      metric,
      [
        (run["name"], *run["curves"][metric])
        for run in runs
        if metric in run["curves"]
      ],
    )
    for metric in metrics
  ]
  body = [_runs_table(runs), *page.charts(curves)]
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
    if metric == "train/loss" or metric.startswith("eval/")
    if type(value) in (int, float)
  }
  return {
    "name": workdir.resolve().name,
    "dataset": _get(config, "data", "name"),
    "model": _get(config, "model", "variant"),
    "steps": max((steps[-1] for steps, _ in curves.values()), default=0),
    "finished": bool(result),
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


def _runs_table(runs: Sequence[dict[str, Any]]) -> str:
  metrics = _merge_keys(run["final"] for run in runs)
  rows = []
  for run in runs:
    steps = f"{run['steps']:,}"
    if not run["finished"]:
      steps += "<small>not finished</small>"
    values = [_number(run["final"].get(m)) for m in metrics]
    rows.append([run["name"], run["dataset"], run["model"], steps, *values])
  return page.table(
    ["Run", "Data set", "Model", "Steps", *metrics],
    rows,
    "Final metrics of each run, or the latest ones of an unfinished run.",
    num_texts=3,
  )


def _number(value: float | None) -> str:
  return page.NONE if value is None else f"{value:.4g}"
