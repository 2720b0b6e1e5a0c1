"""Studies: sets of runs, and the tables that compare them.

A study only lists its runs and what distinguishes them (`factors`, such as
{"data": "cifar10", "per class": "5", "seed": "0"}); `bit_jax study` makes
the runs, and writes tables and charts of those that are finished.
"""

import dataclasses
import fnmatch
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from bit_jax.recipe.load import Config

Factors = Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Run:
  """One run of a study.

  Attributes:
    name: The folder of the run in the study's work directory.
    config: A config such as those of `configs/`.
    factors: Names and values that distinguish the run from the others.
    init: The earlier run whose weights this one starts from; '' to use
      config.init.checkpoint.
  """

  name: str
  config: Config
  factors: Factors
  init: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
  """A table with one statistic of all runs that share a cell.

  Attributes:
    title: The heading.
    rows: The factors whose values name a row.
    columns: The factors whose values name a column.
    metric: A pattern of keys in result.json; the value of the first key
      that matches, a share of 1, is shown in %.
    where: The factors that runs must have to be included.
    statistic: "median" (with the range) or "mean".
    total: The name of a last row over all runs of the table; '' for none.
    decimals: The number of decimals of the percentages.
  """

  title: str
  rows: Sequence[str]
  columns: Sequence[str]
  metric: str = "eval/*/accuracy"
  where: Factors = dataclasses.field(default_factory=dict)
  statistic: str = "median"
  total: str = ""
  decimals: int = 1


@dataclasses.dataclass(frozen=True)
class Chart:
  """A chart of one metric over the steps.

  Attributes:
    title: The heading.
    metric: A pattern of keys in metrics.jsonl, as in `Table`.
    lines: The factors whose values name a line.
    where: The factors that runs must have to be drawn.
  """

  title: str
  metric: str
  lines: Sequence[str]
  where: Factors = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Study:
  """Runs, and the tables and charts that compare them.

  Attributes:
    title: What is compared; a work directory belongs to studies of one title.
    notes: Paragraphs of plain text, such as source and expected result.
    runs: Runs of unique names, each after the run it starts from.
    tables: Tables of the finished runs.
    charts: Charts of the metrics written so far.
  """

  title: str
  notes: Sequence[str]
  runs: Sequence[Run]
  tables: Sequence[Table]
  charts: Sequence[Chart] = ()


def matches(factors: Factors, where: Factors) -> bool:
  """Returns True if a run has all the factors in `where`."""
  return all(factors.get(key) == value for key, value in where.items())


def value(metric: str, values: Mapping[str, Any]) -> Any:
  """Returns the first value whose key matches a pattern, or None."""
  keys = (key for key in values if fnmatch.fnmatchcase(key, metric))
  return values.get(next(keys, ""))


def label(factors: Factors, keys: Sequence[str]) -> str:
  """Returns the name of a row, column or line: the values of its factors."""
  return ", ".join(factors[key] for key in keys)


def cells(
  table: Table,
  runs: Sequence[Run],
  results: Mapping[str, Mapping[str, Any]],
) -> dict[str, dict[str, list[float | None]]]:
  """Sorts the results of finished runs into rows and columns.

  Args:
    table: The table; runs without all of its factors are left out.
    runs: The runs of the study.
    results: The result.json of each finished run, by name.

  Returns:
    {row: {column: values}}, all rows with all columns in the order of the runs.
    A run without a result has the value None; without any run, values is empty.
  """
  keys = (*table.rows, *table.columns)
  shown = [
    run
    for run in runs
    if matches(run.factors, table.where) and all(k in run.factors for k in keys)
  ]
  columns = list(dict.fromkeys(label(r.factors, table.columns) for r in shown))
  names = [label(run.factors, table.rows) for run in shown]
  if shown and table.total:
    shown, names = shown * 2, names + [table.total] * len(shown)
  rows = {name: {c: [] for c in columns} for name in dict.fromkeys(names)}
  for run, name in zip(shown, names, strict=True):
    found = value(table.metric, results.get(run.name, {}))
    rows[name][label(run.factors, table.columns)].append(found)
  return rows


def text(table: Table, values: Sequence[float | None]) -> str:
  """Returns a cell in %, such as `54.1 (51.0 to 56.2)` or `not run`.

  A mean is followed by the number of its runs, `70.1 (of 7)`, and is marked if
  some have no result: `70.1 (partial, 4 of 7)`.
  """
  found = [value for value in values if value is not None]
  if not found:
    return "not run"
  if table.statistic == "mean":
    is_partial = len(found) < len(values)
    count = f"partial, {len(found)} of" if is_partial else "of"
    mean = f"{100 * statistics.fmean(found):.{table.decimals}f}"
    return f"{mean} ({count} {len(values)})"
  return median_and_range(found, table.decimals)


def median_and_range(shares: Sequence[float], decimals: int = 1) -> str:
  """Returns shares of 1 in %: `54.1 (51.0 to 56.2)`, or one of them alone."""
  shown = (statistics.median(shares), min(shares), max(shares))
  median, low, high = (f"{100 * share:.{decimals}f}" for share in shown)
  return f"{median} ({low} to {high})" if len(shares) > 1 else median


def markdown(
  table: Table, rows: Mapping[str, Mapping[str, Sequence[float | None]]]
) -> str:
  """Returns the result of `cells` as a Markdown table under its title."""
  columns = list(next(iter(rows.values()), {}))
  lines = [
    f"{table.title} (%)",
    "",
    f"| {', '.join(table.rows)} | {' | '.join(columns)} |",
    "|:---|" + "---:|" * len(columns),
  ]
  for row, found in rows.items():
    shown = (text(table, found[column]) for column in columns)
    lines.append(f"| {row} | {' | '.join(shown)} |")
  return "\n".join(lines) + "\n"
