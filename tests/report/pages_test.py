"""Tests of the pages in report/ and of the command tools/report.py."""

import base64
import html.parser
import json
import os
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest

from bit_jax import errors
from bit_jax.report import chart, comparison
from bit_jax.report import runs as runs_page
from bit_jax.tools import report


class _Page(html.parser.HTMLParser):
  """Collects a page's tables as text and its images; checks that tags match."""

  def __init__(self, path):
    super().__init__()
    self.source = path.read_text()
    self.rows, self.images, self.tags, self.attributes = [], [], set(), []
    self._open, self._cell = [], None
    self.feed(self.source)
    self.close()
    assert not self._open

  def handle_starttag(self, tag, attrs):
    self.tags.add(tag)
    self.attributes += attrs
    if tag == "img":
      self.images.append(dict(attrs))
    if tag == "tr":
      self.rows.append([])
    if tag in ("td", "th"):
      self.rows[-1].append("")
    if tag == "small":
      self.rows[-1][-1] += " "
    if tag not in ("meta", "img", "wbr"):
      self._open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.tags.add(tag)
    self.attributes += attrs

  def handle_endtag(self, tag):
    assert self._open.pop() == tag

  def handle_data(self, data):
    if {"td", "th"} & set(self._open):
      self.rows[-1][-1] += data.replace("\N{EN DASH}", "-")


_IMAGE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


def _write(path, **changes):
  arguments = {
    "title": "Does it help?",
    "table": {
      "1": {"pretrained": [0.75, 0.8, 0.7], "scratch": [0.3, 0.2, 0.425]},
      "10": {"pretrained": [0.9, 0.94], "scratch": [0.95]},
    },
    "curves": [
      ("Upstream loss", [("upstream", [1, 2], [3.0, 2.0])]),
      ("Accuracy", [("pre-trained", [1, 2], [0.5, 0.75])]),
    ],
    "samples": [("Digits", [(_IMAGE, "seven"), (_IMAGE, "<i>")])],
    "notes": ["What this is.", "Where it ran.", "And when."],
  }
  comparison.write(path, **arguments | changes)
  return _Page(path)


def test_table_gives_medians_ranges_and_differences(tmp_path):
  page = _write(tmp_path / "report.html")
  assert page.rows == [
    [
      "Examples per class",
      "Pre-trained",
      "From scratch",
      "Difference in points",
    ],
    ["1", "75.0% 70.0-80.0", "30.0% 20.0-42.5", "+45.0"],
    ["10", "92.0% 90.0-94.0", "95.0% 95.0-95.0", "-3.0"],
  ]
  assert "(1 to 3 of them)" in page.source


def test_table_leaves_open_what_was_not_measured(tmp_path):
  table = {"5": {"pretrained": [0.5, 0.5], "scratch": []}}
  page = _write(tmp_path / "report.html", table=table)
  assert page.rows[1] == ["5", "50.0% 50.0-50.0", "-", "-"]
  assert "(2 of them)" in page.source


def test_page_needs_nothing_from_elsewhere(tmp_path):
  page = _write(tmp_path / "report.html")
  assert not page.tags & {"script", "link", "iframe", "object", "embed"}
  assert not re.search(r"https?:|url\(|@import", page.source)
  sources = [v for k, v in page.attributes if k in ("src", "href", "srcset")]
  assert len(sources) == 2
  assert all(source.startswith("data:image/png;base64,") for source in sources)


def test_page_suits_phones_and_both_color_schemes(tmp_path):
  page = _write(tmp_path / "report.html")
  assert ("content", "width=device-width, initial-scale=1") in page.attributes
  assert "color-scheme: light dark" in page.source
  assert "prefers-color-scheme: dark" in page.source
  assert chart.STYLE in page.source


def test_page_has_its_parts_in_order(tmp_path):
  page = _write(tmp_path / "report.html")
  parts = [
    "<title>Does it help?</title>",
    "<h1>Does it help?</h1>",
    "<p>What this is.</p>",
    "<h2>Test accuracy</h2>",
    "<h2>Learning curves</h2>",
    "Upstream loss",
    "Accuracy",
    "<h2>Sample images</h2>",
    "<h3>Digits</h3>",
    "<h2>Notes</h2>",
    "<p>Where it ran.</p>",
    "<p>And when.</p>",
  ]
  places = [page.source.find(f">{p}" if p[0] != "<" else p) for p in parts]
  assert -1 not in places
  assert places == sorted(places)


def test_a_name_has_one_color_in_all_charts(tmp_path):
  curves = [
    ("A", [("x", [1], [1.0]), ("y", [1], [2.0])]),
    ("B", [("y", [1], [2.0])]),
  ]
  page = _write(tmp_path / "report.html", curves=curves)
  second = page.source.partition(">B<")[2].partition("</figure>")[0]
  assert "var(--c1)" in second
  assert "var(--c0)" not in second


def test_empty_sections_are_left_out(tmp_path):
  page = _write(
    tmp_path / "report.html", table={}, curves=[], samples=[], notes=[]
  )
  assert not {"h2", "table", "p"} & page.tags


def _decode(source):
  png = base64.b64decode(source.partition(",")[2])
  image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
  return image[..., ::-1]


def test_sample_images_are_exact_and_labelled(tmp_path):
  page = _write(tmp_path / "report.html")
  assert [image["alt"] for image in page.images] == ["seven", "<i>"]
  np.testing.assert_array_equal(_decode(page.images[0]["src"]), _IMAGE)
  assert "i" not in page.tags


@pytest.mark.parametrize(("size_px", "is_small"), [(79, True), (80, False)])
def test_pixels_of_small_images_stay_sharp(tmp_path, size_px, is_small):
  samples = [("A", [(np.zeros((20, size_px, 3), np.uint8), "a")])]
  page = _write(tmp_path / "report.html", samples=samples)
  assert (page.images[0].get("class") == "small") == is_small


def test_large_sample_images_are_reduced(tmp_path):
  image = np.full((300, 600, 3), (10, 20, 30), np.uint8)
  page = _write(tmp_path / "report.html", samples=[("A", [(image, "b")])])
  decoded = _decode(page.images[0]["src"])
  assert decoded.shape == (80, 160, 3)
  assert decoded[0, 0].tolist() == [10, 20, 30]
  assert "class" not in page.images[0]


def test_text_is_escaped(tmp_path):
  page = _write(tmp_path / "report.html", title="<x>", notes=["<y>", "<z>"])
  assert not {"x", "y", "z"} & page.tags
  assert "<p>&lt;y&gt;</p>" in page.source


def test_makes_the_folder_of_the_page(tmp_path):
  _write(tmp_path / "new" / "report.html")


def test_unwritable_page_is_an_input_error(tmp_path):
  with pytest.raises(errors.InputError, match="cannot be written"):
    _write(tmp_path)


def _make_run(workdir, *, dataset="glyphs", finished=True, offset=0.0):
  workdir.mkdir(parents=True)
  config = {"data": {"name": dataset}, "model": {"variant": "R14x0.5"}}
  (workdir / "config.json").write_text(json.dumps(config))
  lines = [
    {"step": 500, "train/loss": 2.0, "train/learning_rate": 0.003},
    {"step": 1000, "train/loss": 1.5, "train/learning_rate": 0.003},
    {"step": 1000, "eval/test/accuracy": 0.5 + offset, "eval/test/loss": None},
  ]
  content = "".join(json.dumps(line) + "\n" for line in lines)
  (workdir / "metrics.jsonl").write_text(content)
  if finished:
    result = {"step": 1000, "note": "x", "eval/test/accuracy": 0.625 + offset}
    (workdir / "result.json").write_text(json.dumps(result))
  return workdir


def test_runs_stand_in_one_table(tmp_path):
  first = _make_run(tmp_path / "first")
  second = _make_run(
    tmp_path / "second", dataset="digits", finished=False, offset=0.25
  )
  out = tmp_path / "report.html"
  runs_page.write(out, [first, second])
  page = _Page(out)
  assert page.rows == [
    ["Run", "Data set", "Model", "Steps", "train/loss", "eval/test/accuracy"],
    ["first", "glyphs", "R14x0.5", "1,000", "1.5", "62.5 %"],
    ["second", "digits", "R14x0.5", "1,000 not finished", "1.5", "75.0 %"],
  ]
  assert "<h1>2 training runs</h1>" in page.source


def test_runs_share_one_chart_for_each_metric(tmp_path):
  runs = [_make_run(tmp_path / name) for name in ("a", "b")]
  runs_page.write(tmp_path / "report.html", runs)
  source = (tmp_path / "report.html").read_text()
  charts = source.split('<figure class="chart">')[1:]
  titles = [re.search("<figcaption>(.*?)<", chart)[1] for chart in charts]
  assert titles == [
    "train/loss",
    "train/learning_rate",
    "eval/test/accuracy, %",
    "eval/test/loss",
  ]
  for text in charts[:3]:
    assert re.findall(r"</svg>(\w)", text) == ["a", "b"]
  assert "No values." in charts[3]


def test_metric_that_one_run_lacks_is_left_open(tmp_path):
  first, second = (_make_run(tmp_path / name) for name in ("a", "b"))
  (second / "result.json").unlink()
  (second / "metrics.jsonl").write_text('{"step": 3, "train/loss": 2}\n')
  runs_page.write(tmp_path / "report.html", [first, second])
  rows = _Page(tmp_path / "report.html").rows
  assert rows[2] == ["b", "glyphs", "R14x0.5", "3 not finished", "2", "-"]


def test_runs_of_one_name_are_told_apart(tmp_path):
  runs = [_make_run(tmp_path / name / "run") for name in ("a", "b")]
  runs_page.write(tmp_path / "report.html", [*runs, runs[0]])
  rows = _Page(tmp_path / "report.html").rows
  assert [row[0] for row in rows[1:]] == [str(run) for run in runs]


def test_run_that_has_only_metrics_can_be_shown(tmp_path):
  workdir = tmp_path / "run"
  workdir.mkdir()
  (workdir / "metrics.jsonl").write_text("")
  runs_page.write(tmp_path / "report.html", [workdir])
  rows = _Page(tmp_path / "report.html").rows
  assert rows[1:] == [["run", "", "", "0 not finished"]]


def _without_workdir(workdir):
  os.rename(workdir, workdir.with_name("elsewhere"))


def _without_metrics(workdir):
  (workdir / "metrics.jsonl").unlink()


def _malformed_line(workdir):
  (workdir / "metrics.jsonl").write_text('{"step": 1}\nwhat\n')


def _malformed_config(workdir):
  (workdir / "config.json").write_text("{")


def _result_of_another_kind(workdir):
  (workdir / "result.json").write_text("[1]")


@pytest.mark.parametrize(
  ("damage", "message"),
  [
    (_without_workdir, "run: there is no such work directory"),
    (_without_metrics, "run: expected the work directory of a run, with a "),
    (_malformed_line, "metrics.jsonl, line 2: expected a JSON object"),
    (_malformed_config, "config.json cannot be read: Expecting"),
    (_result_of_another_kind, "result.json: expected a JSON object"),
  ],
)
def test_bad_run_ends_in_one_line(tmp_path, capsys, damage, message):
  workdir = _make_run(tmp_path / "run")
  damage(workdir)
  out = tmp_path / "report.html"
  assert report.main([str(workdir), f"--out={out}"]) == 1
  shown = capsys.readouterr()
  assert shown.err.startswith(f"error: {tmp_path}")
  assert message in shown.err
  assert shown.err.count("\n") == 1
  assert not shown.out
  assert not out.exists()


def test_command_writes_the_page(tmp_path):
  workdir = _make_run(tmp_path / "run")
  command = [sys.executable, "-m", "bit_jax.tools.report"]
  out = tmp_path / "page.html"
  done = subprocess.run(
    [*command, workdir, f"--out={out}"],
    check=True,
    capture_output=True,
    text=True,
    timeout=60,
  )
  assert done.stdout == f"wrote {out}\n"
  assert "<h1>1 training run</h1>" in out.read_text()


@pytest.mark.parametrize("arguments", [["run", "--colour=red"], []])
def test_wrong_usage_exits_with_2(capsys, arguments):
  with pytest.raises(SystemExit) as e:
    report.main(arguments)
  assert e.value.code == 2
  assert "usage:" in capsys.readouterr().err


def _with_config(workdir, **changes):
  config = json.loads((workdir / "config.json").read_text())
  config |= {
    "seed": 0,
    "optim": {"lr": 0.003, "freeze": []},
    "resolved": {"total_steps": 1000, "data_fingerprint": workdir.name},
  }
  for key, value in changes.items():
    section, _, name = key.rpartition("__")
    (config[section] if section else config)[name] = value
  (workdir / "config.json").write_text(json.dumps(config))
  return workdir


def test_what_was_changed_between_configs_is_shown(tmp_path):
  runs = [
    _with_config(_make_run(tmp_path / "a")),
    _with_config(_make_run(tmp_path / "b"), optim__lr=1e-5, seed=3),
    _with_config(_make_run(tmp_path / "c"), optim__freeze=["head", "block1"]),
  ]
  runs_page.write(tmp_path / "report.html", runs)
  page = _Page(tmp_path / "report.html")
  assert page.rows[4:] == [
    ["Key", "a", "b", "c"],
    ["seed", "0", "3", "0"],
    ["optim.lr", "0.003", "1e-05", "0.003"],
    ["optim.freeze", "none", "none", "head, block1"],
  ]
  assert "What differs between the configs" in page.source


def test_configs_that_say_the_same_are_not_compared(tmp_path):
  old = _make_run(tmp_path / "old")  # Of a commit with fewer keys.
  runs = [_with_config(_make_run(tmp_path / "a")), old]
  runs_page.write(tmp_path / "report.html", runs)
  assert "What differs" not in (tmp_path / "report.html").read_text()


def test_hashes_and_counts_are_no_curves(tmp_path):
  workdir = _make_run(tmp_path / "a")
  with (workdir / "metrics.jsonl").open("a") as file:
    file.write('{"step": 1000, "train/example_hash": 123456789}\n')
    file.write('{"step": 1000, "eval/test/examples": 33}\n')
  runs_page.write(tmp_path / "report.html", [workdir])
  page = _Page(tmp_path / "report.html")
  assert "example_hash" not in page.source
  assert page.rows[0][-1] == "eval/test/examples"
  assert "<figcaption>eval/test/examples" not in page.source


def test_the_page_says_what_the_log_skipped(tmp_path):
  runs = [_make_run(tmp_path / name) for name in ("a", "b")]
  (runs[1] / "metrics.jsonl").write_text(
    "".join(f'{{"step": {i}, "train/loss": 1.0}}\n' for i in range(1, 5))
  )
  runs_page.write(tmp_path / "report.html", runs)
  assert ("single batches, logged every step (b) and every 500 steps (a)") in (
    tmp_path / "report.html"
  ).read_text()


def test_early_ends_and_best_steps_are_told(tmp_path):
  workdir = _make_run(tmp_path / "a")
  result = {"step": 1000, "stopped_early": True, "best_step": 600}
  (workdir / "result.json").write_text(json.dumps(result))
  runs_page.write(tmp_path / "report.html", [workdir])
  steps = _Page(tmp_path / "report.html").rows[1][3]
  assert steps == "1,000 ended early best at 600"


def test_a_table_of_many_metrics_is_divided(tmp_path):
  """At 1280 px a table has room for about nine columns."""
  runs = [_with_config(_make_run(tmp_path / f"r{i}"), seed=i) for i in range(7)]
  metrics = {f"eval/split {i}/top5_accuracy": 0.5 for i in range(20)}
  (runs[0] / "result.json").write_text(json.dumps({"step": 1, **metrics}))
  runs_page.write(tmp_path / "report.html", runs)
  page = _Page(tmp_path / "report.html")
  assert max(map(len, page.rows)) == 9
  header = [name for row in page.rows for name in row]
  assert all(header.count(name) == 1 for name in metrics)
  assert ["Key", *(f"r{i}" for i in range(5))] in page.rows
  assert ["Key", "r5", "r6"] in page.rows
