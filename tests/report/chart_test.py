"""Tests of report/chart.py."""

import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from bit_jax.report import chart


def _draw(*series, title="loss"):
  styles = chart.assign_styles([name for name, _, _ in series])
  return ElementTree.fromstring(chart.draw(title, series, styles))


def _curve_points(figure):
  """The points of each curve, one list for each unbroken piece."""
  paths = figure.findall("./svg/path[@class='curve']")
  return [
    [
      [
        tuple(map(float, xy.split()))
        for xy in re.split("h0L|L|h0", piece)
        if xy
      ]
      for piece in path.get("d").split("M")
      if piece
    ]
    for path in paths
  ]


def _labels(figure, anchor):
  texts = figure.findall(f"./svg/text[@text-anchor='{anchor}']")
  return [text.text for text in texts if text.text != "step"]


def test_points_stand_where_the_axes_say():
  figure = _draw(("a", [0, 50, 100], [0.0, 0.5, 1.0]))
  assert _curve_points(figure) == [[[(52, 222), (215, 116), (378, 10)]]]
  assert _labels(figure, "end") == ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]
  assert _labels(figure, "middle") == ["0", "20", "40", "60", "80", "100"]
  heights = [
    float(text.get("y")) - 4
    for text in figure.findall("./svg/text[@text-anchor='end']")
  ]
  np.testing.assert_allclose(heights, np.linspace(222, 10, 6), atol=0.06)


def test_steps_start_at_zero_and_end_at_the_last():
  figure = _draw(("a", [40, 90], [1.0, 2.0]))
  ((first, last),) = _curve_points(figure)[0]
  assert first[0] == pytest.approx(52 + 40 / 90 * 326, abs=0.06)
  assert last[0] == 378
  assert _labels(figure, "middle") == ["0", "20", "40", "60", "80"]


def test_missing_values_leave_gaps_and_single_points_stay_visible():
  values = [1.0, 2.0, None, 3.0, math.nan, math.inf, 4.0, 5.0]
  figure = _draw(("a", range(8), values))
  assert [len(piece) for piece in _curve_points(figure)[0]] == [2, 1, 2]
  path = figure.find("./svg/path[@class='curve']").get("d")
  assert re.search(r"M[\d. ]+h0M", path)
  assert len(figure.findall(".//circle")) == 5


def test_long_lines_are_thinned_but_keep_ends_spikes_and_gaps():
  values = np.ones(10_000)
  values[[1234, 5678]] = 9.0, -5.0
  values[2500] = math.nan
  figure = _draw(("a", range(10_000), values))
  pieces = _curve_points(figure)[0]
  points = [point for piece in pieces for point in piece]
  assert 100 < len(points) < 450
  assert len(pieces) == 2
  heights = [y for _, y in points]
  _, flat = points[0]
  assert heights.count(min(heights)) == heights.count(max(heights)) == 1
  assert min(heights) < flat < max(heights)
  assert not figure.findall(".//circle")
  thinned = chart._points(range(10_000), values)
  assert (thinned[0], thinned[-1]) == ((0, 1), (9999, 1))


@pytest.mark.parametrize(
  ("low", "high", "ticks"),
  [
    (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
    (0.27, 0.91, [0.2, 0.4, 0.6, 0.8, 1]),
    (0.3, 0.7, [0.3, 0.4, 0.5, 0.6, 0.7]),
    (0, 0.003, [0, 0.001, 0.002, 0.003]),
    (-3, 12, [-5, 0, 5, 10, 15]),
    (2, 2, [1, 1.5, 2, 2.5, 3]),
    (0, 0, [-0.6, -0.4, -0.2, 0, 0.2, 0.4, 0.6]),
    # The two are distinct floats, but no float lies between them.
    (2, 2 + 5e-16, [1, 1.5, 2, 2.5, 3]),
    (0, 5e-324, [-0.6, -0.4, -0.2, 0, 0.2, 0.4, 0.6]),
  ],
)
def test_ticks_are_round_and_enclose_the_values(low, high, ticks):
  np.testing.assert_allclose(chart._ticks(low, high), ticks, atol=1e-12)


def test_ticks_are_few_whatever_the_values():
  rng = np.random.default_rng(0)
  for _ in range(500):
    low, high = np.sort(rng.normal(size=2) * 10 ** rng.uniform(-6, 6))
    ticks = chart._ticks(low, high)
    assert 3 <= len(ticks) <= 8
    slack = 1e-6 * (high - low)
    assert ticks[0] <= low + slack
    assert ticks[-1] >= high - slack


@pytest.mark.parametrize(
  ("ticks", "labels"),
  [
    ([0, 10_000, 20_000], ["0", "10,000", "20,000"]),
    ([0, 0.5, 1], ["0.0", "0.5", "1.0"]),
    ([0.9998, 0.9999, 1], ["0.9998", "0.9999", "1.0000"]),
    ([0, 1e6, 2e6], ["0", "1e+06", "2e+06"]),
    ([0, 2e-7, 4e-7], ["0", "2e-07", "4e-07"]),
  ],
)
def test_tick_labels_differ(ticks, labels):
  assert chart._tick_labels(ticks) == labels


def test_chart_without_values_says_so():
  figure = _draw(("a", [1, 2], [None, math.nan]), ("b", [], []))
  assert figure.find("p").text == "No values."
  assert figure.find("svg") is None


def test_one_point_at_step_zero_can_be_drawn():
  assert len(_draw(("a", [0], [3.0])).findall(".//circle")) == 1


def test_legend_gives_the_last_value_of_each_line():
  figure = _draw(("a", [1, 2], [3.0, 0.98765]), ("b", [1, 2], [3.0, None]))
  items = ["".join(item.itertext()) for item in figure.iter("li")]
  assert items == ["a 0.9877", "b"]


def test_lines_of_one_name_look_alike_and_share_the_legend():
  seeds = [("a", [1, 2], [1.0, 2.0]), ("a", [1, 2], [1.0, 3.0])]
  figure = _draw(*seeds, ("b", [1, 2], [1.0, 4.0]))
  colors = [
    path.get("stroke") for path in figure.findall("./svg/path[@class='curve']")
  ]
  assert colors == ["var(--c0)", "var(--c0)", "var(--c1)"]
  items = ["".join(item.itertext()) for item in figure.iter("li")]
  assert items == ["a", "b 4"]


def test_styles_stay_different_past_the_last_color():
  names = [str(i) for i in range(14)]
  figure = _draw(*((name, [1, 2], [1.0, 2.0]) for name in names))
  looks = {
    (path.get("stroke"), path.get("stroke-dasharray"))
    for path in figure.findall("./svg/path[@class='curve']")
  }
  assert len(looks) == 14
  colors = {color.removeprefix("var(").removesuffix(")") for color, _ in looks}
  for color in colors:
    # Once for the light scheme and once for the dark one.
    assert chart.STYLE.count(f"{color}: #") == 2


def test_names_are_escaped():
  figure = _draw(("<b>&", [1], [1.0]), title='"<i>"')
  assert figure.find("figcaption").text == '"<i>"'
  assert figure.find("svg").get("aria-label") == '"<i>" by step'
  assert "<b>& 1" in "".join(figure.itertext())


def test_steps_and_values_must_pair():
  with pytest.raises(ValueError, match="zip"):
    _draw(("a", [1, 2], [1.0]))
