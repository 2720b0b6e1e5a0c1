"""Writes an HTML page comparing a pre-trained network with one from scratch."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bit_jax.report import chart, page

_COLUMNS = {"pretrained": "Pre-trained", "scratch": "From scratch"}


def write(
  path: str | Path,
  *,
  title: str,
  table: Mapping[str, Mapping[str, Sequence[float]]],
  curves: Sequence[tuple[str, Sequence[chart.Series]]],
  samples: Sequence[tuple[str, Sequence[tuple[np.ndarray, str]]]],
  notes: Sequence[str],
) -> None:
  """Writes the comparison page.

  Args:
    path: The HTML file to write; its folder is created if missing.
    title: Heading of the page.
    table: {examples per class: {"pretrained": accuracies, "scratch":
      accuracies}} in the order of the rows, with one accuracy in [0, 1] for
      each seed.
    curves: (title, [(name, steps, values), ...]) for each chart. NaN and None
      leave a gap. A name has the same colour in all charts. Several lines of a
      chart, e.g. the seeds, may share a name.
    samples: (title, [(image, label), ...]) for each set of sample images, each
      image uint8[H, W, 3] in RGB.
    notes: Paragraphs of plain text. The first one explains the page, below its
      heading; the others follow at the end.

  Raises:
    InputError: The page cannot be written.
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
    rows.append([examples, *map(page.median_and_range, values), difference])
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
