"""Studies: several runs that are compared, and how tables are made of them.

A study only says which runs there are and what tells them apart (`factors`,
such as {"data": "cifar10", "per class": "5", "seed": "0"}); `scripts/study.py`
makes the runs, and tables and charts of those that are finished.
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
    name: its folder in the study's work directory.
    config: of `configs/`.
    factors: what tells it from the others.
    init: the name of an earlier run whose weights it starts from; '' where
      config.init.checkpoint says it.
  """

  name: str
  config: Config
  factors: Factors
  init: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
  """What a table shows: one number for all runs that share a cell.

  Attributes:
    title: the heading.
    rows: the factors that tell rows apart.
    columns: the factors that tell columns apart.
    metric: of result.json, a share of 1; the first key that this pattern
      matches.
    where: the factors that runs must have to count.
    statistic: median (with the range) or mean.
  """

  title: str
  rows: Sequence[str]
  columns: Sequence[str]
  metric: str = "eval/*/accuracy"
  where: Factors = dataclasses.field(default_factory=dict)
  statistic: str = "median"


@dataclasses.dataclass(frozen=True)
class Chart:
  """A chart of one metric over the steps.

  Attributes:
    title: the heading.
    metric: of metrics.jsonl; a pattern, as in `Table`.
    lines: the factors that name a line.
    where: the factors that runs must have to be drawn.
  """

  title: str
  metric: str
  lines: Sequence[str]
  where: Factors = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Study:
  """Runs, in an order in which they can be made, and what they show.

  Attributes:
    title: what is compared.
    notes: paragraphs of plain text: source, expected result.
    runs: names are unique.
    tables: made of finished runs.
    charts: made of what runs have written so far.
  """

  title: str
  notes: Sequence[str]
  runs: Sequence[Run]
  tables: Sequence[Table]
  charts: Sequence[Chart] = ()


def matches(factors: Factors, where: Factors) -> bool:
  """Tells whether a run has all the factors asked for."""
  return all(factors.get(key) == value for key, value in where.items())


def value(metric: str, scalars: Mapping[str, Any]) -> float | None:
  """Returns the first scalar whose key matches a pattern, None without any."""
  keys = (key for key in scalars if fnmatch.fnmatchcase(key, metric))
  return scalars.get(next(keys, ""))


def label(factors: Factors, keys: Sequence[str]) -> str:
  """Returns what a row, column or line is called."""
  return ", ".join(factors[key] for key in keys)


def cells(
  table: Table,
  runs: Sequence[Run],
  results: Mapping[str, Mapping[str, Any]],
) -> dict[str, dict[str, list[float]]]:
  """Sorts the results of finished runs into rows and columns.

  Args:
    table: what to show.
    runs: of the study; those without all factors of the table are left out.
    results: result.json of finished runs, by name.

  Returns:
    {row: {column: values}}, all rows with all columns in the order of the runs;
    values may be empty.
  """
  keys = (*table.rows, *table.columns)
  shown = [
    run
    for run in runs
    if matches(run.factors, table.where) and all(k in run.factors for k in keys)
  ]
  columns = list(dict.fromkeys(label(r.factors, table.columns) for r in shown))
  rows: dict[str, dict[str, list[float]]] = {}
  for run in shown:
    row = rows.setdefault(
      label(run.factors, table.rows), {column: [] for column in columns}
    )
    found = value(table.metric, results.get(run.name, {}))
    if found is not None:
      row[label(run.factors, table.columns)].append(found)
  return rows


def text(values: Sequence[float], statistic: str = "median") -> str:
  """Returns shares as percentages: `54.1`, `54.1 (51.0 to 56.2)`, `not run`."""
  if not values:
    return "not run"
  if statistic == "mean":
    return f"{100 * statistics.fmean(values):.1f} (of {len(values)})"
  median = f"{100 * statistics.median(values):.1f}"
  if len(values) == 1:
    return median
  return f"{median} ({100 * min(values):.1f} to {100 * max(values):.1f})"


def markdown(
  table: Table, rows: Mapping[str, Mapping[str, Sequence[float]]]
) -> str:
  """Returns what `cells` gave as a Markdown table under its title."""
  columns = list(next(iter(rows.values()), {}))
  lines = [
    f"{table.title} (%)",
    "",
    f"| {', '.join(table.rows)} | {' | '.join(columns)} |",
    "|:---|" + "---:|" * len(columns),
  ]
  for row, found in rows.items():
    shown = (text(found[column], table.statistic) for column in columns)
    lines.append(f"| {row} | {' | '.join(shown)} |")
  return "\n".join(lines) + "\n"
