"""Line charts as inline SVG for the HTML pages of `report`.

Colours come from the page's style sheet, so a chart follows the light or dark
scheme of the reader. A page with charts must include `STYLE`.
"""

import html
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

# One line of a chart: (name, steps, values).
Series = tuple[str, Sequence[float], Sequence[float | None]]

STYLE = """
:root { --c0: #0068b5; --c1: #c94f00; --c2: #00805c; --c3: #a8438a;
  --c4: #7a6a00; --c5: #5b4fc9; --axis: #5c626a; --grid: #dcdfe3; }
@media (prefers-color-scheme: dark) {
  :root { --c0: #58b0f5; --c1: #ff9a4d; --c2: #3ecf9f; --c3: #f08fd0;
    --c4: #dcc94a; --c5: #a9a0ff; --axis: #a3a9b2; --grid: #3a3f47; } }
.chart { margin: 0; min-width: 0; }
.chart figcaption { font-weight: 600; margin-bottom: .3rem; }
.chart svg { display: block; width: 100%; height: auto; }
.chart text { font: 12px system-ui, sans-serif; fill: var(--axis); }
.chart .grid { stroke: var(--grid); }
.chart .curve { fill: none; stroke-width: 2; stroke-linejoin: round;
  stroke-linecap: round; }
.chart ul { list-style: none; margin: .4rem 0 0; padding: 0; display: flex;
  flex-wrap: wrap; gap: .1rem 1.1rem; font-size: .85rem; }
.chart li svg { display: inline-block; width: 1.6em; height: .7em;
  margin-right: .45em; }
.chart li .curve { stroke-width: 4; }
"""

# STYLE defines the colours --c0 to --c5.
_NUM_COLORS = 6
# More points per line cannot be distinguished on a screen.
_MAX_POINTS = 400
_MAX_MARKED_POINTS = 25

# Sizes are in units of the viewBox; the browser scales it to the page's width.
_WIDTH, _HEIGHT = 400, 262
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 378, 10, 222


def assign_styles(names: Sequence[str]) -> dict[str, int]:
  """Returns {name: number of its line style}, in the order of appearance."""
  return {name: i for i, name in enumerate(dict.fromkeys(names))}


def draw(
  title: str, series: Sequence[Series], styles: Mapping[str, int]
) -> str:
  """Draws lines over steps, from step 0 on.

  Args:
    title: Heading above the chart.
    series: (name, steps, values) for each line; NaN, infinity and None leave a
      gap. Lines of the same name look alike and share an entry in the legend.
      The legend shows the last value of a name with a single line.
    styles: The result of `assign_styles` for all names.

  Returns:
    A <figure> element of class "chart", as HTML.
  """
  lines = [(name, _points(steps, values)) for name, steps, values in series]
  finite = [p for _, line in lines for p in line if math.isfinite(p[1])]
  caption = f"<figcaption>{html.escape(title)}</figcaption>"
  if not finite:
    return f'<figure class="chart">{caption}<p>No values.</p></figure>'
  x_high = max(step for step, _ in finite) or 1
  y_ticks = _ticks(min(v for _, v in finite), max(v for _, v in finite))
  y_low, y_high = y_ticks[0], y_ticks[-1]

  def place(step: float, value: float) -> tuple[float, float]:
    x = _LEFT + step / x_high * (_RIGHT - _LEFT)
    y = _BOTTOM - (value - y_low) / (y_high - y_low) * (_BOTTOM - _TOP)
    return x, y

  parts = [_axes(y_ticks, _ticks(0, x_high), place)]
  is_marked = max(len(line) for _, line in lines) <= _MAX_MARKED_POINTS
  for name, line in lines:
    pixels = [place(*p) if math.isfinite(p[1]) else None for p in line]
    parts.append(_curve(_path(pixels), styles[name]))
    if is_marked:
      color = f"var(--c{styles[name] % _NUM_COLORS})"
      parts += [
        f'<circle cx="{p[0]:.1f}" cy="{p[1]:.1f}" r="2.5" fill="{color}"/>'
        for p in pixels
        if p
      ]
  return (
    f'<figure class="chart">{caption}<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" '
    f'role="img" aria-label="{html.escape(title)} by step">{"".join(parts)}'
    f"</svg>{_legend(lines, styles)}</figure>"
  )


def _points(
  steps: Sequence[float], values: Sequence[float | None]
) -> list[tuple[float, float]]:
  """Returns (step, value) pairs; a long line keeps its lows, highs and gaps."""
  points = [
    (float(step), math.nan if value is None else float(value))
    for step, value in zip(steps, values, strict=True)
  ]
  if len(points) <= _MAX_POINTS:
    return points
  kept = {0, len(points) - 1}
  edges = np.linspace(0, len(points), _MAX_POINTS // 2, dtype=int)
  for start, end in itertools.pairwise(edges.tolist()):
    finite = [i for i in range(start, end) if math.isfinite(points[i][1])]
    kept |= set(range(start, end)).difference(finite)
    if finite:
      kept.add(min(finite, key=lambda i: points[i][1]))
      kept.add(max(finite, key=lambda i: points[i][1]))
  return [points[i] for i in sorted(kept)]


def _ticks(low: float, high: float) -> list[float]:
  """Returns three to seven round numbers, first <= low and last >= high."""
  if math.isclose(low, high, rel_tol=1e-9, abs_tol=1e-30):
    margin = abs(low) / 2 or 0.5
    low, high = low - margin, high + margin
  power = 10.0 ** math.floor(math.log10((high - low) / 5))
  step = next(
    power * factor
    for factor in (1, 2, 5, 10)
    if power * factor >= (high - low) / 5
  )
  # The slack allows for quotients that rounding moves off a whole number.
  first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
  return [i * step for i in range(first, last + 1)]


def _axes(y_ticks, x_ticks, place) -> str:
  """Returns grid lines and tick labels as SVG, without x ticks past the end."""
  parts = [
    f'<text x="{(_LEFT + _RIGHT) / 2}" y="{_BOTTOM + 36}" '
    'text-anchor="middle">step</text>'
  ]
  for tick, label in zip(y_ticks, _tick_labels(y_ticks), strict=True):
    _, y = place(0, tick)
    parts.append(
      f'<path class="grid" d="M{_LEFT} {y:.1f}H{_RIGHT}"/>'
      f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">'
      f"{label}</text>"
    )
  for tick, label in zip(x_ticks, _tick_labels(x_ticks), strict=True):
    x, _ = place(tick, y_ticks[0])
    if x <= _RIGHT + 0.1:
      parts.append(
        f'<text x="{x:.1f}" y="{_BOTTOM + 18}" text-anchor="middle">'
        f"{label}</text>"
      )
  return "".join(parts)


def _tick_labels(ticks: Sequence[float]) -> list[str]:
  """Returns the ticks as text with the decimals that their distance needs."""
  decimals = max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))
  if decimals > 5 or max(map(abs, ticks)) >= 1e6:
    return [f"{tick:.4g}" for tick in ticks]
  return [f"{tick:,.{decimals}f}" for tick in ticks]


def _curve(path: str, style: int) -> str:
  round_number, color = divmod(style, _NUM_COLORS)
  # Dashes distinguish lines once the colours are used up.
  dash = f' stroke-dasharray="{4 * round_number} 5"' if round_number else ""
  return f'<path class="curve" stroke="var(--c{color})"{dash} d="{path}"/>'


def _path(pixels: Sequence[tuple[float, float] | None]) -> str:
  """Returns the data of an SVG path through points; None leaves a gap."""
  commands = []
  is_drawing = False
  for pixel in pixels:
    if pixel is not None:
      # "h0" draws a dot for a point that stands alone between gaps.
      command, suffix = ("L", "") if is_drawing else ("M", "h0")
      commands.append(f"{command}{pixel[0]:.1f} {pixel[1]:.1f}{suffix}")
    is_drawing = pixel is not None
  return "".join(commands)


def _legend(lines, styles: Mapping[str, int]) -> str:
  names = [name for name, _ in lines]
  items = []
  for name, line in dict(lines).items():
    has_last = names.count(name) == 1 and line and math.isfinite(line[-1][1])
    last = f" <b>{line[-1][1]:.4g}</b>" if has_last else ""
    items.append(
      '<li><svg viewBox="0 0 32 14" aria-hidden="true">'
      f"{_curve('M2 7H30', styles[name])}</svg>{html.escape(name)}{last}</li>"
    )
  return f"<ul>{''.join(items)}</ul>"
