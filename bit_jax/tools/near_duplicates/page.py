"""Selects near-duplicate pairs; writes them as a JSON list and an HTML page."""

import functools
import html
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bit_jax.data import decode
from bit_jax.data.source import Source
from bit_jax.errors import InputError
from bit_jax.report import page
from bit_jax.storage import files

_DISTANCES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
# Equal pixels give equal features up to rounding, which stays below this
# distance; only such pairs need their pixels compared.
_IDENTICAL = 1e-4

_STYLE = """
.pairs { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 18rem), 1fr)); }
.sides { grid-template-columns: 1fr 1fr; }
.sides figcaption { overflow-wrap: anywhere; }
.pairs b { float: right; color: var(--ink); }
"""


def check_writable(page_file: str, json_file: str) -> None:
  """Raises InputError unless both files can be written and differ.

  Creates their folders if missing.

  Args:
    page_file: The HTML page.
    json_file: The list of pairs; '' for none.
  """
  paths = [Path(file) for file in (page_file, json_file) if file]
  for path in paths:
    try:
      # Writing replaces the file, which must not happen to a device.
      if path.exists() and not path.is_file():
        raise InputError(f"{path}: cannot be written: it is no file")
      path.parent.mkdir(parents=True, exist_ok=True)
      if path.exists():
        path.open("ab").close()
      tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as e:
      raise InputError(f"{path}: cannot be written: {e.strerror}") from e
  if len({path.resolve() for path in paths}) < len(paths):
    raise InputError(f"{paths[0]}: page and list need a file each")


def closest_pairs(
  distances: np.ndarray,
  numbers: np.ndarray,
  *,
  within: bool,
  threshold: float | None,
  max_pairs: int,
) -> list[tuple[int, int, float]]:
  """Returns (query, index, distance) triples in order of distance.

  Args:
    distances: float32[Q, k], distances of the nearest index examples of each
      query example.
    numbers: int32[Q, k], numbers of these index examples.
    within: The query is the index. Each pair comes once, with query < index.
    threshold: Largest distance of a pair; None selects the closest pairs.
    max_pairs: Most pairs to return without a threshold.
  """
  first = np.repeat(np.arange(len(numbers)), numbers.shape[1])
  second, far = numbers.ravel(), distances.ravel()
  if within:
    first, second = np.minimum(first, second), np.maximum(first, second)
  order = np.lexsort((second, first, far))
  if threshold is not None:
    order, max_pairs = order[far[order] <= threshold], len(order)
  pairs: dict[tuple[int, int], float] = {}
  for i in order:
    pairs.setdefault((int(first[i]), int(second[i])), float(far[i]))
    if len(pairs) == max_pairs:
      break
  return [(*pair, distance) for pair, distance in pairs.items()]


class _Example:
  """The number, label, file and pixels of an example, for page and list."""

  def __init__(self, source: Source, number: int):
    example = source.examples[number]
    self.number, self._image = number, example["image"]
    self.file = example.get("name", "")
    self._name = self.file or f"{source.name} example {number}"
    known = [
      i for i in np.ravel(example["label"]) if 0 <= i < source.num_classes
    ]
    self.label = ", ".join(source.class_names[i] for i in known) or "no label"

  @functools.cached_property
  def pixels(self) -> np.ndarray:
    """The image as uint8[H, W, 3] in RGB."""
    if isinstance(self._image, np.ndarray):
      return self._image
    return decode.decode(self._image, self._name)


def write(
  page_file: str,
  json_file: str,
  query: Source,
  index: Source,
  distances: np.ndarray,
  numbers: np.ndarray,
  *,
  within: bool,
  threshold: float | None,
  max_pairs: int,
  note: str,
) -> str:
  """Writes the page and the list of pairs.

  Args:
    page_file: The HTML page.
    json_file: The JSON list; '' for none.
    query: The examples whose neighbours were searched.
    index: The examples that were searched.
    distances: float32[Q, k], distances of the nearest index examples.
    numbers: int32[Q, k], numbers of these index examples.
    within: The query is the index.
    threshold: Largest distance of a pair; None selects the closest pairs.
    max_pairs: Most pairs on the page, and without a threshold in the list.
    note: A sentence on how the distances were computed, for the page.

  Returns:
    A summary line.

  Raises:
    InputError: A file cannot be written, or an image cannot be read.
  """
  pairs = closest_pairs(
    distances,
    numbers,
    within=within,
    threshold=threshold,
    max_pairs=max_pairs,
  )
  records, figures = [], []
  for i, j, distance in pairs:
    left, right = _Example(query, i), _Example(index, j)
    identical = distance < _IDENTICAL and np.array_equal(
      left.pixels, right.pixels
    )
    record = {"query": i, "index": j, "distance": round(distance, 6)}
    record["identical"] = bool(identical)
    for role, example in (("query", left), ("index", right)):
      if example.file:
        record[f"{role}_file"] = example.file
    records.append(record)
    if len(figures) < max_pairs:
      figures.append(_figure(left, right, distance, identical))
  identical = sum(record["identical"] for record in records)
  limit = max((d for *_, d in pairs), default=0.0)
  limit = limit if threshold is None else threshold
  nearest = distances[:, 0]
  shares = {d: int((nearest <= d).sum()) for d in sorted({*_DISTANCES, limit})}
  sets = (
    f"within {query.name}" if within else f"of {query.name} in {index.name}"
  )
  found = f"{len(pairs):,} pairs at a distance of at most {limit:.4g}"
  lines = ",\n".join(json.dumps(record) for record in records)
  try:
    if json_file:
      files.write_text(json_file, f"[\n{lines}\n]\n")
  except OSError as e:
    raise InputError(f"{json_file}: cannot be written: {e.strerror}") from e
  heading = f"{found}, {identical:,} of them identical"
  if len(figures) < len(pairs):
    heading += f"; the {len(figures):,} closest"
  body = [
    page.paragraph(
      f"{len(query):,} query and {len(index):,} index examples. {note} "
      "The distance is 1 - cosine of the features, 0 to 1."
    ),
    page.paragraph(
      "Which distance means the same image differs between networks: look for "
      "the first pair below that shows two, and choose a --threshold just "
      "below its distance."
    ),
    _table(shares, len(query)),
    f"<h2>{html.escape(heading)}</h2>",
    '<div class="pairs">',
    *figures,
    "</div>",
  ]
  page.write(page_file, f"Near-duplicates {sets}", body, _STYLE)
  # Without a threshold the largest distance is arbitrary, and so would be the
  # share of query examples below it.
  meaning = "choose a --threshold to know how many examples are affected"
  if threshold is not None:
    share = shares[limit] / len(query)
    meaning = f"{share:.2%} of the query examples have such a neighbour"
  return (
    f"near-duplicates {sets}: {found}, {identical:,} identical; {meaning}; "
    f"wrote {', '.join(filter(None, (page_file, json_file)))}"
  )


def _table(shares: Mapping[float, int], num_queries: int) -> str:
  return page.table(
    ["Distance at most", "Query examples", "Share"],
    [
      (f"{distance:.4g}", f"{count:,}", f"{count / num_queries:.2%}")
      for distance, count in shares.items()
    ],
    f"How many of the {num_queries:,} query examples have an index example at "
    "most so far away.",
  )


def _figure(
  query: _Example, index: _Example, distance: float, identical: bool
) -> str:
  mark = " <b>identical</b>" if identical else ""
  return (
    f'<figure class="card"><div class="samples sides pad">'
    f"{_side('query', query)}{_side('index', index)}</div>"
    f"<figcaption>distance {distance:.4f}{mark}</figcaption></figure>"
  )


def _side(role: str, example: _Example) -> str:
  name = f"{role} {example.number}"
  image = page.picture(example.pixels, f"{name}, {example.label}", lossy=True)
  lines = (name, example.label, example.file)
  caption = "<br>".join(html.escape(line) for line in lines if line)
  return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"
