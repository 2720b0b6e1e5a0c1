"""Tests of metrics_file.py."""

import json
import os

import pytest

from bit_jax import errors
from bit_jax.writers import metrics_file


def test_truncate_after_keeps_lines_up_to_the_step_as_they_are(tmp_path):
  path = tmp_path / "metrics.jsonl"
  kept = '{"step":1, "a": 0.10}\n{"step": 2, "a": null}\n'
  path.write_text(kept + '{"step": 3}\n{"step": 40}\n')
  metrics_file.truncate_after(path, 2)
  assert path.read_text() == kept
  assert os.listdir(tmp_path) == ["metrics.jsonl"]


@pytest.mark.parametrize("torn", [b'{"step": 2, "a', b"\0\0\0", b"\xff{"])
def test_truncate_after_drops_a_torn_last_line(tmp_path, torn):
  path = tmp_path / "metrics.jsonl"
  path.write_bytes(b'{"step": 1}\n' + torn)
  metrics_file.truncate_after(path, 9)
  assert path.read_bytes() == b'{"step": 1}\n'


def test_truncate_after_ends_a_whole_last_line(tmp_path):
  path = tmp_path / "metrics.jsonl"
  path.write_text('{"step": 1}\n{"step": 2}')
  metrics_file.truncate_after(path, 2)
  assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_truncate_after_drops_evaluations_of_the_step_itself(tmp_path):
  path = tmp_path / "metrics.jsonl"
  lines = [
    {"step": 1, "eval/test/loss": 3.0},
    {"step": 2, "train/loss": 2.0},
    {"step": 2, "eval/test/loss": 2.0},
  ]
  path.write_text("".join(json.dumps(line) + "\n" for line in lines))
  metrics_file.truncate_after(path, 2)
  assert metrics_file.read_metrics(path) == lines[:2]


def test_truncate_after_without_a_file_does_nothing(tmp_path):
  metrics_file.truncate_after(tmp_path / "metrics.jsonl", 5)
  assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
  "line",
  [
    "what",
    "[1]",
    "{}",
    '{"step": "1"}',
    '{"step": true}',
    '{"step": 1.5}',
    '{"step": 1, "a": "0.5"}',
    '{"step": 1, "a": [1]}',
    "",
  ],
)
def test_malformed_line_is_named_and_the_file_left_alone(tmp_path, line):
  path = tmp_path / "metrics.jsonl"
  content = '{"step": 1}\n' + line + '\n{"step": 3}\n'
  path.write_text(content)
  with pytest.raises(errors.InputError, match=r"metrics\.jsonl, line 2: "):
    metrics_file.truncate_after(path, 1)
  assert path.read_text() == content


def test_truncate_after_replaces_the_file_in_one_go(tmp_path, monkeypatch):
  path = tmp_path / "metrics.jsonl"
  content = '{"step": 1}\n{"step": 2}\n'
  path.write_text(content)

  def killed(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(os, "replace", killed)
  monkeypatch.setattr("pathlib.Path.replace", killed)
  with pytest.raises(KeyboardInterrupt):
    metrics_file.truncate_after(path, 1)
  assert path.read_text() == content


def test_read_metrics(tmp_path):
  path = tmp_path / "metrics.jsonl"
  path.write_text('{"step": 1, "a": 0.5}\n{"step": 2, "b": null}\n{"st')
  assert metrics_file.read_metrics(path) == [
    {"step": 1, "a": 0.5},
    {"step": 2, "b": None},
  ]


def test_read_metrics_names_the_missing_file(tmp_path):
  with pytest.raises(errors.InputError, match=r"none\.jsonl: cannot be read: "):
    metrics_file.read_metrics(tmp_path / "none.jsonl")


def test_curves_have_the_steps_of_their_own_metric(tmp_path):
  path = tmp_path / "metrics.jsonl"
  path.write_text('{"step": 1, "a": 2.0}\n{"step": 3, "a": null, "b": 4}\n')
  curves = metrics_file.read_curves(path)
  assert curves == {"a": ([1, 3], [2.0, None]), "b": ([3], [4])}
