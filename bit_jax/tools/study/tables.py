"""Reads the results of a study's runs; writes its tables and charts."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from bit_jax.errors import InputError
from bit_jax.report import page, study
from bit_jax.run import workdir_files
from bit_jax.storage import files
from bit_jax.writers import metric_text, metrics_file


def read_results(
  runs: Sequence[study.Run], workdir: pathlib.Path
) -> dict[str, dict[str, Any]]:
  """Returns the content of result.json of each finished run, by name."""
  found = {
    r.name: workdir_files.read_result(epath.Path(workdir) / r.name)
    for r in runs
  }
  return {name: result for name, result in found.items() if result}


def read_secs(path: pathlib.Path, title: str) -> dict[str, float]:
  """Returns the seconds that each run took so far, by name.

  Raises:
    InputError: The file is damaged, or belongs to a study of another title.
  """
  if not path.exists():
    return {}
  try:
    stored = json.loads(path.read_text())
    secs = {name: run["secs"] for name, run in stored["runs"].items()}
    stored_title = stored["title"]
  except (ValueError, LookupError, TypeError, AttributeError) as e:
    raise InputError(f"{path} is damaged: {e!r}; remove it") from e
  if stored_title != title:
    raise InputError(
      f"{path} belongs to the study {stored_title!r}, not {title!r}; use "
      "another --workdir"
    )
  return secs


def write_tables(
  spec: study.Study, workdir: pathlib.Path, secs: Mapping[str, float]
) -> str:
  """Writes study.json, study.md and study.html; returns the Markdown."""
  results = read_results(spec.runs, workdir)
  tables = [(t, study.cells(t, spec.runs, results)) for t in spec.tables]
  tables = [(t, rows) for t, rows in tables if rows]
  text = "\n".join(study.markdown(t, rows) for t, rows in tables)
  runs = {
    run.name: {
      "factors": dict(run.factors),
      "secs": round(secs.get(run.name, 0.0), 1),
      "result": results[run.name],
    }
    for run in spec.runs
    if run.name in results
  }
  stored = {"title": spec.title, "runs": runs}
  workdir.mkdir(parents=True, exist_ok=True)
  files.write_text(workdir / "study.json", json.dumps(stored, indent=1) + "\n")
  files.write_text(
    workdir / "study.md", "\n\n".join((spec.title, *spec.notes, text))
  )
  write_page(spec, workdir, tables)
  return text


def write_page(spec: study.Study, workdir: pathlib.Path, tables: Any) -> None:
  """Writes study.html: notes, tables and learning curves."""
  body = [page.paragraph(note) for note in spec.notes]
  for table, rows in tables:
    columns = list(next(iter(rows.values()), {}))
    lines = [
      [row, *(study.text(table, found[column]) for column in columns)]
      for row, found in rows.items()
    ]
    body.append(
      page.table(
        [", ".join(table.rows), *columns],
        lines,
        f"{table.title}, in %: {table.statistic}"
        + (" (range)" if table.statistic == "median" else " (of runs)"),
      )
    )
  body += page.charts(
    [_in_percent(c, curves(c, spec, workdir)) for c in spec.charts]
  )
  page.write(workdir / "study.html", spec.title, body)


def _in_percent(chart: study.Chart, lines: Any) -> tuple[str, Any]:
  """Returns title and lines of a chart, those of shares in %."""
  if not metric_text.is_share(chart.metric):
    return chart.title, lines
  return f"{chart.title}, %", [
    (name, steps, [None if v is None else 100 * v for v in values])
    for name, steps, values in lines
  ]


def curves(
  chart: study.Chart, spec: study.Study, workdir: pathlib.Path
) -> list[tuple[str, list[float], list[float | None]]]:
  """Returns the lines of a chart from the metrics written so far."""
  lines = []
  for run in spec.runs:
    path = workdir / run.name / metrics_file.METRICS_FILE
    if not study.matches(run.factors, chart.where) or not path.exists():
      continue
    found = study.value(chart.metric, metrics_file.read_curves(path))
    lines.append((study.label(run.factors, chart.lines), *(found or ([], []))))
  return lines
