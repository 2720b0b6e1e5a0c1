"""Shows training runs as one self-contained HTML page.

  python -m bit_jax.tools.report WORKDIR [WORKDIR ...] --out=report.html

The page has one row for each run and one chart for each metric, with the runs
laid over each other. It fetches nothing from anywhere, so that it can be kept,
mailed and read offline, on a phone as well.
"""

import argparse
import html
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bit_jax.errors import InputError, exit_status
from bit_jax.report import chart, page
from bit_jax.storage import files
from bit_jax.writers import metrics_file

_COLUMNS = {"pretrained": "Pre-trained", "scratch": "From scratch"}


def write_report(
  path: str | Path,
  *,
  title: str,
  table: Mapping[str, Mapping[str, Sequence[float]]],
  curves: Sequence[tuple[str, Sequence[chart.Series]]],
  samples: Sequence[tuple[str, Sequence[tuple[np.ndarray, str]]]],
  notes: Sequence[str],
) -> None:
  """Writes the page that compares a pre-trained model with one from scratch.

  Args:
    path: the HTML file to write; its folder is made if missing.
    title: the heading.
    table: {examples per class: {"pretrained": accuracies, "scratch":
      accuracies}} with one accuracy in [0, 1] for each seed, in the order of
      the rows.
    curves: (title, [(name, steps, values), ...]) for each chart. NaN and None
      leave a gap. A name has the same colour in all charts; several lines of
      a chart, the seeds for instance, may share one.
    samples: (title, [(image, label), ...]) for each set of sample images, each
      image uint8[H, W, 3] in RGB.
    notes: paragraphs of plain text; the first explains the page below its
      heading, the others stand at its end.

  Raises:
    InputError: if the page cannot be written.
  """
  explanation, *others = notes or [""]
  body = [
    page.paragraph(explanation),
    _comparison_table(table),
    *page.charts(curves),
  ]
  if samples:
    body.append("<h2>Sample images</h2>")
    body += [page.sample_set(name, images) for name, images in samples]
  if others:
    body.append("<h2>Notes</h2>")
    body += [page.paragraph(note) for note in others]
  page.write(path, title, body)


def write_runs_report(path: str | Path, workdirs: Sequence[str | Path]) -> None:
  """Writes the page that shows training runs side by side.

  Args:
    path: the HTML file to write; its folder is made if missing.
    workdirs: work directories of runs, finished or not.

  Raises:
    InputError: if a work directory or its metrics.jsonl is missing, one of its
      files is malformed, or the page cannot be written.
  """
  # A directory given twice is one run.
  paths = {Path(workdir).resolve(): Path(workdir) for workdir in workdirs}
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
  """Reads what the page shows of one work directory."""
  if not workdir.is_dir():
    raise InputError(f"{workdir}: there is no such work directory")
  path = workdir / metrics_file.METRICS_FILE
  if not path.exists():
    raise InputError(
      f"{workdir}: expected the work directory of a run, with a "
      f"{metrics_file.METRICS_FILE}"
    )
  records = metrics_file.read_metrics(path)
  curves: dict[str, tuple[list[int], list[float | None]]] = {}
  for record in records:
    for metric, value in record.items():
      if metric != "step":
        steps, values = curves.setdefault(metric, ([], []))
        steps.append(record["step"])
        values.append(value)
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
    "steps": max((record["step"] for record in records), default=0),
    "finished": bool(result),
    "final": final,
    "curves": curves,
  }


def _read_json(path: Path) -> dict[str, Any]:
  """Reads a JSON object; {} if there is no such file."""
  return files.read_json(path) if path.exists() else {}


def _get(config: dict[str, Any], section: str, key: str) -> str:
  """Reads config[section][key]; empty if the run did not store it."""
  values = config.get(section)
  return str(values[key]) if isinstance(values, dict) and key in values else ""


def _merge_keys(mappings: Any) -> list[str]:
  """All keys, each once, in the order in which they come."""
  return list(dict.fromkeys(key for mapping in mappings for key in mapping))


def _comparison_table(
  table: Mapping[str, Mapping[str, Sequence[float]]],
) -> str:
  rows = []
  for examples, cell in table.items():
    values = [cell[column] for column in _COLUMNS]
    if all(values):
      pretrained, scratch = map(statistics.median, values)
      difference = f"{100 * (pretrained - scratch):+.1f}"
    else:
      difference = page.NONE
    rows.append(
      f'<tr><th scope="row">{html.escape(examples)}</th>'
      + "".join(f"<td>{page.median_and_range(v)}</td>" for v in values)
      + f"<td>{difference}</td></tr>"
    )
  counts = [len(v) for cell in table.values() for v in cell.values() if v]
  if not counts:
    return ""
  seeds = " to ".join(map(str, sorted({min(counts), max(counts)})))
  return "<h2>Test accuracy</h2>" + page.table(
    ["Examples per class", *_COLUMNS.values(), "Difference in points"],
    rows,
    f"Median over the seeds ({seeds} of them), below it the lowest and the "
    "highest. The difference is between the medians.",
  )


def _runs_table(runs: Sequence[dict[str, Any]]) -> str:
  metrics = _merge_keys(run["final"] for run in runs)
  rows = []
  for run in runs:
    texts = "".join(
      f"<td{page.TEXT}>{html.escape(run[key])}</td>"
      for key in ("dataset", "model")
    )
    steps = f"{run['steps']:,}"
    if not run["finished"]:
      steps += "<small>not finished</small>"
    values = [steps] + [_number(run["final"].get(m)) for m in metrics]
    rows.append(
      f'<tr><th scope="row">{html.escape(run["name"])}</th>{texts}'
      + "".join(f"<td>{value}</td>" for value in values)
      + "</tr>"
    )
  return page.table(
    ["Run", "Data set", "Model", "Steps", *metrics],
    rows,
    "Final metrics of each run, or the last it wrote where it is not finished.",
    num_texts=3,
  )


def _number(value: float | None) -> str:
  return page.NONE if value is None else f"{value:.4g}"


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command; returns its exit status."""
  parser = argparse.ArgumentParser(
    prog="python -m bit_jax.tools.report",
    description=(__doc__ or "").partition("\n")[0],
    allow_abbrev=False,
  )
  parser.add_argument(
    "workdirs", nargs="+", metavar="WORKDIR", help="work directory of a run"
  )
  parser.add_argument(
    "--out", default="report.html", metavar="FILE", help="%(default)s if unset"
  )
  args = parser.parse_args(argv)

  def write() -> None:
    write_runs_report(args.out, args.workdirs)
    print(f"wrote {args.out}")

  return exit_status(write)


if __name__ == "__main__":
  sys.exit(main())
