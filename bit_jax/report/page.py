"""Elements of the self-contained HTML pages that tools and scripts write.

A page loads nothing from other files or the network, so it can be kept, mailed
and read offline.
"""

import base64
import html
import importlib.resources
import re
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np

from bit_jax.errors import InputError
from bit_jax.report import chart
from bit_jax.storage import user_paths

NONE = "&ndash;"
_MAX_SAMPLE_PX, _WEBP_QUALITY = 160, 85


def write(
  path: str | Path, title: str, body: Sequence[str], style: str = ""
) -> None:
  """Writes a page.

  Args:
    path: The HTML file to write; its folder is created if missing.
    title: Heading of the page, as plain text.
    body: HTML elements; empty strings are left out.
    style: CSS for this page, added to that of all pages.

  Raises:
    InputError: The page cannot be written.
  """
  css = importlib.resources.files("bit_jax.report").joinpath("page.css")
  page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{css.read_text()}{chart.STYLE}{style}</style>
</head>
<body>
<h1>{html.escape(title)}</h1>
"""
  page += "\n".join(filter(None, body)) + "\n</body>\n</html>\n"
  path = user_paths.local(str(path))
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
  except OSError as e:
    raise InputError(f"{path}: cannot be written: {e.strerror}") from e


def paragraph(text: str) -> str:
  """Returns plain text as a <p> element; '' for an empty text."""
  return f"<p>{html.escape(text)}</p>" if text else ""


def table(
  header: Sequence[str],
  rows: Iterable[Sequence[str]],
  caption: str,
  num_texts: int = 1,
) -> str:
  """Returns a table as a <figure> element.

  Args:
    header: Plain text for the head of each column.
    rows: The cells of each row: plain text in the first `num_texts` columns,
      HTML in the others, which hold numbers.
    caption: Plain text below the table.
    num_texts: Number of leading columns that hold words.
  """
  text = ' class="text"'
  head = "".join(
    f'<th scope="col"{text if i < num_texts else ""}>{_breakable(name)}</th>'
    for i, name in enumerate(header)
  )
  lines = []
  for name, *cells in rows:
    words, numbers = cells[: num_texts - 1], cells[num_texts - 1 :]
    line = f'<tr><th scope="row">{_breakable(name)}</th>'
    line += "".join(f"<td{text}>{_breakable(cell)}</td>" for cell in words)
    line += "".join(f"<td>{cell}</td>" for cell in numbers)
    lines.append(f"{line}</tr>")
  return (
    '<figure class="card"><div class="scroll">'
    f"<table><thead><tr>{head}</tr></thead><tbody>\n"
    + "\n".join(lines)
    + "\n</tbody></table></div>"
    + f"<figcaption>{html.escape(caption)}</figcaption></figure>"
  )


def _breakable(text: str) -> str:
  """Returns text as HTML that may be broken after / and _, to stay narrow."""
  return re.sub(r"([/_:=,])(?=\w)", r"\1<wbr>", html.escape(text))


def median_and_range(values: Sequence[float]) -> str:
  """Returns median and range of shares (0 to 1) as percentages, for a <td>."""
  if not values:
    return NONE
  low, high = (f"{100 * v:.1f}" for v in (min(values), max(values)))
  return f"{statistics.median(values):.1%}<small>{low}&ndash;{high}</small>"


def charts(curves: Sequence[tuple[str, Sequence[chart.Series]]]) -> list[str]:
  """Returns HTML elements for charts (title, lines), below a heading."""
  styles = chart.assign_styles(
    [name for _, series in curves for name, _, _ in series]
  )
  drawn = [
    f'<div class="card pad">{chart.draw(title, series, styles)}</div>'
    for title, series in curves
  ]
  if not drawn:
    return []
  return ["<h2>Learning curves</h2>", '<div class="charts">', *drawn, "</div>"]


def sample_set(title: str, images: Sequence[tuple[np.ndarray, str]]) -> str:
  """Returns HTML for images uint8[H, W, 3] (RGB) with labels and a heading."""
  figures = [
    f"<figure>{picture(image, label)}"
    f"<figcaption>{html.escape(label)}</figcaption></figure>"
    for image, label in images
  ]
  return (
    f"<h3>{html.escape(title)}</h3>"
    f'<div class="samples">{"".join(figures)}</div>'
  )


def picture(image: np.ndarray, label: str, *, lossy: bool = False) -> str:
  """Returns an <img> element.

  Args:
    image: uint8[H, W, 3] in RGB.
    label: The alternative text.
    lossy: Stores WebP instead of PNG, unless the image is small.
  """
  # A small image is shown with enlarged pixels, as the model sees it; smoothing
  # or a lossy format would blur them.
  small = max(image.shape[:2]) < 80
  source = data_uri(image, lossy=lossy and not small)
  name = ' class="small"' if small else ""
  return f'<img{name} src="{source}" alt="{html.escape(label)}">'


def data_uri(image: np.ndarray, *, lossy: bool = False) -> str:
  """Returns an image as a data URI, reduced to at most 160 px.

  Args:
    image: uint8[H, W, 3] in RGB.
    lossy: Stores WebP instead of PNG: a ninth of the bytes, for pages with
      hundreds of images.
  """
  height, width = image.shape[:2]
  scale = _MAX_SAMPLE_PX / max(height, width)
  if scale < 1:
    size = max(1, round(width * scale)), max(1, round(height * scale))
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
  kind, options = "png", []
  if lossy:
    kind, options = "webp", [cv2.IMWRITE_WEBP_QUALITY, _WEBP_QUALITY]
  bgr = np.ascontiguousarray(image[..., ::-1])
  encoded = cv2.imencode(f".{kind}", bgr, options)[1].tobytes()
  return f"data:image/{kind};base64,{base64.b64encode(encoded).decode()}"
