"""Parts of the self-contained HTML pages that tools and scripts write.

They fetch nothing from anywhere, so that a page can be kept, mailed and read
offline, on a phone as well.
"""

import base64
import html
import statistics
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from bit_jax.errors import InputError
from bit_jax.report import chart

NONE = "&ndash;"
TEXT = ' class="text"'  # Of a table's cell that holds words.
_MAX_SAMPLE_PX, _WEBP_QUALITY = 160, 85

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #5c626a;
  --line: #dcdfe3; --card: #fff; --page: #f5f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8eaed; --soft: #a3a9b2; --line: #3a3f47; --card: #1d2025;
    --page: #131518; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.25rem 1rem 3rem; max-width: 64rem;
  font: 1rem/1.55 system-ui, sans-serif; color: var(--ink);
  background: var(--page); overflow-wrap: break-word;
  -webkit-text-size-adjust: 100%; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .75rem; }
h2 { font-size: 1.2rem; margin: 2.25rem 0 .75rem; }
h3 { font-size: 1rem; margin: 1.25rem 0 .5rem; }
p { max-width: 44rem; margin: .5rem 0; }
figure { margin: 0; }
.card { background: var(--card); border: 1px solid var(--line);
  border-radius: .6rem; min-width: 0; }
.pad { padding: .8rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%;
  font-variant-numeric: tabular-nums; }
.card > figcaption { padding: .6rem .8rem; color: var(--soft);
  font-size: .85rem; border-top: 1px solid var(--line); }
th, td { padding: .55rem .8rem; text-align: right; white-space: nowrap; }
thead th { white-space: normal; vertical-align: bottom; line-height: 1.3;
  font-size: .85rem; color: var(--soft); }
tbody tr { border-top: 1px solid var(--line); }
th:first-child, .text { text-align: left; }
td small { display: block; color: var(--soft); font-size: .8rem; }
@media (max-width: 30rem) {
  th, td { padding: .5rem; }
  th:first-child { padding-left: .8rem; } }
.charts { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr)); }
.samples { display: grid; gap: .8rem;
  grid-template-columns: repeat(auto-fill, minmax(4.2rem, 1fr)); }
.samples img { display: block; width: 100%; aspect-ratio: 1;
  object-fit: contain; border-radius: .35rem; border: 1px solid var(--line); }
.samples img.small { image-rendering: pixelated; }
.samples figcaption { font-size: .8rem; line-height: 1.3; margin-top: .2rem;
  color: var(--soft); text-align: center; }
"""


def write(
  path: str | Path, title: str, body: Sequence[str], style: str = ""
) -> None:
  """Writes a page.

  Args:
    path: the HTML file; its folder is made if missing.
    title: the heading.
    body: HTML elements; empty strings are left out.
    style: CSS of this page alone.

  Raises:
    InputError: it cannot be written.
  """
  page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{_STYLE}{chart.STYLE}{style}</style>
</head>
<body>
<h1>{html.escape(title)}</h1>
"""
  page += "\n".join(filter(None, body)) + "\n</body>\n</html>\n"
  path = Path(path)
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
  except OSError as e:
    raise InputError(f"{path}: cannot be written: {e.strerror}") from e


def paragraph(text: str) -> str:
  """Returns plain text as a <p>, '' for ''."""
  return f"<p>{html.escape(text)}</p>" if text else ""


def table(
  header: Sequence[str], rows: Sequence[str], caption: str, num_texts: int = 1
) -> str:
  """Returns a table as a <figure>.

  Args:
    header: one plain text a column.
    rows: a <tr> each; cells with words have the attribute TEXT.
    caption: plain text below it.
    num_texts: how many columns, from the first, hold words.
  """
  cells = "".join(
    f'<th scope="col"{TEXT if i < num_texts else ""}>{html.escape(name)}</th>'
    for i, name in enumerate(header)
  )
  return (
    '<figure class="card"><div class="scroll">'
    f"<table><thead><tr>{cells}</tr></thead><tbody>\n"
    + "\n".join(rows)
    + "\n</tbody></table></div>"
    + f"<figcaption>{html.escape(caption)}</figcaption></figure>"
  )


def median_and_range(values: Sequence[float]) -> str:
  """Returns shares, 0 to 1, as percentages: what a <td> holds."""
  if not values:
    return NONE
  low, high = (f"{100 * v:.1f}" for v in (min(values), max(values)))
  return f"{statistics.median(values):.1%}<small>{low}&ndash;{high}</small>"


def charts(curves: Sequence[tuple[str, Sequence[chart.Series]]]) -> list[str]:
  """Returns the elements that show charts (title, lines), with a heading."""
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
  """Returns images uint8[H, W, 3] (RGB) with labels, below a heading."""
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
  """Returns uint8[H, W, 3] (RGB) as an <img>; `lossy` as in `data_uri`."""
  # Enlarged pixels tell what the model sees; smoothing, or losses, would hide
  # it.
  small = max(image.shape[:2]) < 80
  source = data_uri(image, lossy=lossy and not small)
  name = ' class="small"' if small else ""
  return f'<img{name} src="{source}" alt="{html.escape(label)}">'


def data_uri(image: np.ndarray, *, lossy: bool = False) -> str:
  """Returns uint8[H, W, 3] (RGB) in a size that keeps a page small.

  Args:
    image: the image; larger ones are reduced.
    lossy: WebP instead of PNG, a ninth of the bytes, for pages of hundreds.
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
