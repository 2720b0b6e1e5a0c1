"""Runs a study; writes tables and charts of the runs that are finished.

  python -m scripts.study --study=configs/kshot.py:dataset=cifar10 \\
      --workdir=/tmp/kshot [--runs='1-shot*,5-shot*'] [--config.key=value ...]

A study is a file with `get_study(arg)`: `configs/vtab.py`, `configs/kshot.py`,
`configs/ablation.py` and `configs/reproduction.py`. Each run has a folder in
the work directory. Started again, the command resumes where it was stopped;
other machines can make other runs in the same directory (--runs), and --runs=''
makes none. Runs whose data set is not prepared are named and skipped; a run
that fails ends the command. `--config.key=value` of bit_jax.main is applied to
every run.

After each run WORKDIR/study.json holds all results, study.md the tables and
study.html the tables and the learning curves.
"""

import copy
import fnmatch
import importlib.util
import json
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from bit_jax import progress, train
from bit_jax.data.sets import tfds_folders
from bit_jax.errors import InputError, UsageError, exit_status
from bit_jax.recipe import load
from bit_jax.report import page, study
from bit_jax.run import workdir_files
from bit_jax.storage import cache, checkpoint, files, user_paths
from bit_jax.tools import command_line
from bit_jax.writers import metric_text, metrics_file

log = progress.say


def load_study(spec: str) -> study.Study:
  """Returns the study that `FILE:key=value,...` names.

  Raises:
    InputError: The arguments have a wrong value.
    UsageError: The file has no study, or its arguments are wrong.
  """
  path, _, arg = user_paths.expand(spec).partition(":")
  module_spec = importlib.util.spec_from_file_location("study_file", path)
  if not pathlib.Path(path).is_file() or not module_spec:
    raise UsageError(f"--study={path}: there is no such Python file")
  assert module_spec.loader
  module = importlib.util.module_from_spec(module_spec)
  module_spec.loader.exec_module(module)
  if not hasattr(module, "get_study"):
    raise UsageError(f"--study={path} has no get_study(arg)")
  return module.get_study(arg)


def missing_data(run: study.Run) -> str:
  """Returns the reason why a run's data set cannot be used, or ''."""
  data = run.config.data
  if data.name in ("glyphs", "digits") or data.name.startswith("folder:"):
    return ""
  try:
    tfds_folders.find(data.name, data.dir)
  except InputError as e:
    return str(e)
  return ""


def is_finished(
  config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> bool:
  """Returns True if a run of the same config is finished; reads no data."""
  stored = workdir / workdir_files.CONFIG
  if not stored.exists() or workdir_files.read_result(workdir) is None:
    return False
  old, new = json.loads(stored.read_text()), json.loads(config.to_json())
  if any(old["data"][key] != new["data"][key] for key in ("name", "dir")):
    return False  # The run itself opens the data and compares it.
  changed = workdir_files.differences(old, new)
  return all(line.startswith("resolved.") for line in changed)


def make_run(run: study.Run, workdir: pathlib.Path) -> float:
  """Makes or resumes a run; returns the seconds it took.

  Raises:
    InputError: The run fails, or the run it starts from is not finished.
  """
  started = time.monotonic()
  config = copy.deepcopy(run.config)
  if run.init:
    if not (workdir / run.init / "params.npz").exists():
      raise InputError(f"{run.name} starts from {run.init}, which is not there")
    config.init.checkpoint = str((workdir / run.init).resolve())
  if config.data.subset_file:
    config.data.subset_file = str(
      workdir / user_paths.expand(config.data.subset_file)
    )
  if is_finished(config, workdir / run.name):
    log("is finished")
    return 0.0
  try:
    train.train_and_evaluate(config, workdir / run.name)
  except InputError as e:
    raise InputError(f"{run.name}: {e}") from e
  return time.monotonic() - started


def read_results(
  runs: Sequence[study.Run], workdir: pathlib.Path
) -> dict[str, dict[str, Any]]:
  """Returns the content of result.json of each finished run, by name."""
  found = {r.name: workdir_files.read_result(workdir / r.name) for r in runs}
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


def run_study(
  spec: study.Study,
  workdir: pathlib.Path,
  *,
  runs: str = "*",
  overrides: Sequence[str] = (),
) -> str:
  """Makes the runs whose names match and returns the tables as Markdown.

  Args:
    spec: The study.
    workdir: The folder that holds, or will hold, a folder for each run.
    runs: Patterns of names, separated by commas; '' for no run.
    overrides: Arguments `--config.key=value`, applied to every run.

  Raises:
    InputError: A run fails, a pattern matches no run, no data set is prepared,
      or `workdir` belongs to another study.
    UsageError: An override is wrong.
  """
  for run in spec.runs:
    load.override(run.config, overrides)
  names, chosen = [run.name for run in spec.runs], set()
  for pattern in filter(None, (p.strip() for p in runs.split(","))):
    found = fnmatch.filter(names, pattern)
    if not found:
      raise InputError(f"--runs={pattern} matches none of {', '.join(names)}")
    chosen.update(found)
  stored = workdir / "study.json"
  read_secs(stored, spec.title)  # Fails before the first run, not after it.
  skipped, todo = {}, []
  for run in (run for run in spec.runs if run.name in chosen):
    reason = missing_data(run)
    if not reason and run.init in skipped:
      reason = f"{run.init} is skipped"
    if reason:
      skipped[run.name] = reason
      log(f"skipped {run.name}: {reason}")
    else:
      todo.append(run)
  if skipped and not todo:
    raise InputError(
      "no run of the study has its data set prepared; "
      f"{next(iter(skipped.values()))}"
    )
  began, made = time.monotonic(), 0
  for i, run in enumerate(todo, 1):
    log(
      f"\n{run.name} (run {i} of {len(todo)}"
      f"{_time_left(began, made, len(todo) - i + 1)})"
    )
    took = make_run(run, workdir)
    made += took > 0
    if not read_results([run], workdir):
      raise InputError(f"{run.name} has ended without a result")
    # It is read again because another machine may have added its runs.
    secs = read_secs(stored, spec.title)
    secs[run.name] = secs.get(run.name, 0.0) + took
    write_tables(spec, workdir, secs)
  return write_tables(spec, workdir, read_secs(stored, spec.title))


def _time_left(began: float, made: int, left: int) -> str:
  """Returns an estimate from the runs made so far, for a line; '' before."""
  if not made:
    return ""
  secs = (time.monotonic() - began) / made * left
  return f", about {progress.duration(secs)} left"


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line and returns the exit status."""
  parser = command_line.Parser("scripts.study", __doc__)
  parser.add_argument("--study", required=True, metavar="FILE:ARGS")
  parser.add_argument("--workdir", required=True, type=user_paths.local)
  parser.add_argument(
    "--runs", default="*", metavar="GLOB,...", help="names of the runs to make"
  )
  args, overrides = parser.parse_known_args(argv)
  checkpoint.silence_orbax()
  cache.enable_compilation_cache()

  def run() -> None:
    spec = load_study(args.study)
    text = run_study(spec, args.workdir, runs=args.runs, overrides=overrides)
    print(text, end="", flush=True)
    log(f"see {args.workdir / 'study.html'}")

  return exit_status(run)


if __name__ == "__main__":
  sys.exit(main())
