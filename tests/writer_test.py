"""Tests of writer.py."""

import contextlib
import fcntl
import io
import json
import os
import pathlib
import pty
import struct
import subprocess
import sys
import termios
import textwrap
import threading

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboard.backend.event_processing import (
  event_file_loader,
  plugin_event_accumulator,
)
from tensorboard.plugins.hparams import plugin_data_pb2

from bit_jax import errors, writer


def _lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def _events(logdir):
  paths = sorted(logdir.glob("events.out.tfevents.*"))
  return [
    event
    for path in paths
    for event in event_file_loader.RawEventFileLoader(str(path)).Load()
  ]


def _accumulate(logdir):
  accumulator = plugin_event_accumulator.EventAccumulator(str(logdir))
  accumulator.Reload()
  return accumulator


def _make_older(logdir):
  """Lets event files sort as if the next one came seconds later."""
  for i, path in enumerate(logdir.glob("events.out.tfevents.*")):
    path.rename(path.with_name(f"events.out.tfevents.{i}"))


class _Clock:
  """A clock that goes on only when told to."""

  def __init__(self):
    self.secs = 100.0

  def __call__(self):
    return self.secs


def test_metric_writer_accepts_and_ignores_everything():
  ignore = writer.MetricWriter()
  ignore.write_scalars(1, {"train/loss": 1.0})
  ignore.write_images(1, {"batch": np.zeros((1, 2, 2, 3), np.uint8)})
  ignore.write_texts(1, {"note": "hello"})
  ignore.write_hparams({"lr": 0.1})
  ignore.flush()
  ignore.close()


def test_jsonl_writes_one_flushed_object_a_write(tmp_path):
  path = tmp_path / "metrics.jsonl"
  jsonl = writer.JsonlWriter(path)
  jsonl.write_scalars(np.int64(1), {"train/loss": np.float32(0.5)})
  jsonl.write_scalars(2, {"a": jnp.float32(0.25), "b": 3})
  # Read before close: a killed process must leave its lines behind.
  assert _lines(path) == [
    {"step": 1, "train/loss": 0.5},
    {"step": 2, "a": 0.25, "b": 3.0},
  ]
  jsonl.close()


def test_jsonl_appends_to_what_is_there(tmp_path):
  path = tmp_path / "metrics.jsonl"
  for step in (1, 2):
    jsonl = writer.JsonlWriter(path)
    jsonl.write_scalars(step, {"a": 1.0})
    jsonl.close()
  assert [line["step"] for line in _lines(path)] == [1, 2]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_jsonl_writes_null_for_what_json_cannot_hold(tmp_path, value):
  path = tmp_path / "metrics.jsonl"
  jsonl = writer.JsonlWriter(path)
  jsonl.write_scalars(1, {"train/loss": value})
  jsonl.close()
  assert path.read_text() == '{"step": 1, "train/loss": null}\n'


def test_truncate_after_keeps_lines_up_to_the_step_as_they_are(tmp_path):
  path = tmp_path / "metrics.jsonl"
  kept = '{"step":1, "a": 0.10}\n{"step": 2, "a": null}\n'
  path.write_text(kept + '{"step": 3}\n{"step": 40}\n')
  writer.truncate_after(path, 2)
  assert path.read_text() == kept
  assert os.listdir(tmp_path) == ["metrics.jsonl"]


@pytest.mark.parametrize("torn", [b'{"step": 2, "a', b"\0\0\0", b"\xff{"])
def test_truncate_after_drops_a_torn_last_line(tmp_path, torn):
  path = tmp_path / "metrics.jsonl"
  path.write_bytes(b'{"step": 1}\n' + torn)
  writer.truncate_after(path, 9)
  assert path.read_bytes() == b'{"step": 1}\n'


def test_truncate_after_ends_a_whole_last_line(tmp_path):
  path = tmp_path / "metrics.jsonl"
  path.write_text('{"step": 1}\n{"step": 2}')
  writer.truncate_after(path, 2)
  assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_truncate_after_drops_evaluations_of_the_step_itself(tmp_path):
  path = tmp_path / "metrics.jsonl"
  lines = [
    {"step": 1, "eval/test/loss": 3.0},
    {"step": 2, "train/loss": 2.0},
    {"step": 2, "eval/test/loss": 2.0},
  ]
  path.write_text("".join(json.dumps(line) + "\n" for line in lines))
  writer.truncate_after(path, 2)
  assert writer.read_metrics(path) == lines[:2]


def test_truncate_after_without_a_file_does_nothing(tmp_path):
  writer.truncate_after(tmp_path / "metrics.jsonl", 5)
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
    writer.truncate_after(path, 1)
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
    writer.truncate_after(path, 1)
  assert path.read_text() == content


def test_read_metrics(tmp_path):
  path = tmp_path / "metrics.jsonl"
  path.write_text('{"step": 1, "a": 0.5}\n{"step": 2, "b": null}\n{"st')
  assert writer.read_metrics(path) == [
    {"step": 1, "a": 0.5},
    {"step": 2, "b": None},
  ]


def test_read_metrics_names_the_missing_file(tmp_path):
  with pytest.raises(errors.InputError, match=r"none\.jsonl: cannot be read: "):
    writer.read_metrics(tmp_path / "none.jsonl")


def test_tensorboard_reads_scalars_back(tmp_path):
  board = writer.TensorBoardWriter(tmp_path / "logs")
  board.write_scalars(5, {"train/loss": jnp.float32(0.5), "lr": 0.25})
  board.write_scalars(6, {"train/loss": 0.375})
  board.close()
  read = _accumulate(tmp_path / "logs")
  losses = read.Tensors("train/loss")
  values = [float(e.tensor_proto.float_val[0]) for e in losses]
  assert [e.step for e in losses] == [5, 6]
  assert values == [0.5, 0.375]
  assert [e.step for e in read.Tensors("lr")] == [5]


def test_tensorboard_flush_makes_events_readable(tmp_path):
  board = writer.TensorBoardWriter(tmp_path)
  board.write_scalars(1, {"a": 1.0})
  board.flush()
  assert _accumulate(tmp_path).Tags()["tensors"] == ["a"]
  board.close()


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_tensorboard_reads_images_back(tmp_path, dtype):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (2, 4, 6, 3), np.uint8)
  given = images if dtype == np.uint8 else images.astype(dtype) / 255
  board = writer.TensorBoardWriter(tmp_path)
  board.write_images(3, {"batch": given, "first": given[0]})
  board.write_images(3, {"grey": given[0, :, :, :1]})
  board.close()
  read = {
    value.tag: value.image
    for event in _events(tmp_path)
    for value in event_file_loader.event_pb2.Event.FromString(
      event
    ).summary.value
  }
  assert sorted(read) == ["batch/0", "batch/1", "first", "grey"]
  assert (read["first"].height, read["first"].width) == (4, 6)
  expected = {"batch/0": 0, "batch/1": 1, "first": 0}
  for tag, index in expected.items():
    png = np.frombuffer(read[tag].encoded_image_string, np.uint8)
    bgr = cv2.imdecode(png, cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(bgr[..., ::-1], images[index])
  png = np.frombuffer(read["grey"].encoded_image_string, np.uint8)
  grey = cv2.imdecode(png, cv2.IMREAD_UNCHANGED)
  np.testing.assert_array_equal(grey, images[0, :, :, 0])


def test_tensorboard_reads_texts_and_hparams_back(tmp_path):
  board = writer.TensorBoardWriter(tmp_path)
  board.write_texts(1, {"note": "hello"})
  board.write_hparams({"lr": 0.5, "model": "R50x1", "shape": (1, 2)})
  board.close()
  read = _accumulate(tmp_path)
  (note,) = read.Tensors("note")
  assert note.tensor_proto.string_val[0] == b"hello"
  content = read.summary_metadata["_hparams_/session_start_info"]
  data = plugin_data_pb2.HParamsPluginData.FromString(
    content.plugin_data.content
  )
  hparams = data.session_start_info.hparams
  assert hparams["lr"].number_value == 0.5
  assert hparams["model"].string_value == "R50x1"
  assert hparams["shape"].string_value == "(1, 2)"


def test_tensorboard_forgets_the_steps_that_run_again(tmp_path):
  first = writer.TensorBoardWriter(tmp_path)
  for step in (1, 2, 3):
    first.write_scalars(step, {"a": 1.0})
  first.close()
  _make_older(tmp_path)
  second = writer.TensorBoardWriter(tmp_path, start_step=2)
  second.write_scalars(4, {"a": 2.0})
  second.close()
  steps = [e.step for e in _accumulate(tmp_path).Tensors("a")]
  assert steps == [1, 2, 4]


def test_tensorboard_never_waits_for_the_disk(tmp_path, monkeypatch):
  board = writer.TensorBoardWriter(tmp_path)
  disk = threading.Event()
  record_writer = board._events._async_writer._writer
  write = record_writer.write
  monkeypatch.setattr(
    record_writer, "write", lambda data: (disk.wait(10), write(data))
  )
  values = {str(i): float(i) for i in range(500)}
  loop = threading.Thread(target=board.write_scalars, args=(1, values))
  loop.start()
  loop.join(timeout=3)
  waited = loop.is_alive()
  disk.set()
  loop.join()
  board.close()
  assert not waited
  assert len(_accumulate(tmp_path).Tags()["tensors"]) == 500


def test_tensorflow_is_never_imported_even_where_installed(tmp_path):
  fake = tmp_path / "site" / "tensorflow"
  fake.mkdir(parents=True)
  (fake / "__init__.py").write_text("raise RuntimeError('imported')")
  root = pathlib.Path(writer.__file__).parents[1]
  program = """
    import sys
    from bit_jax import writer
    assert not any(m.startswith("tensorboard") for m in sys.modules)
    w = writer.create(
      sys.argv[1], total_steps=9, start_step=0, batch_size=1, is_lead=True)
    w.write_scalars(1, {"train/loss": 1.0})
    w.write_texts(1, {"note": "hello"})
    w.write_hparams({"lr": 0.5})
    w.close()
    assert "tensorflow" not in sys.modules
  """
  subprocess.run(
    [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "run")],
    env={**os.environ, "PYTHONPATH": f"{fake.parent}:{root}"},
    check=True,
    timeout=60,
  )


def test_progress_writes_plain_lines_where_there_is_no_terminal():
  stream, clock = io.StringIO(), _Clock()
  progress = writer.ProgressWriter(1000, 0, 64, stream, clock)
  progress.write_scalars(100, {"train/loss": 2.5, "train/lr": 3e-5})
  clock.secs += 50
  progress.write_scalars(200, {"train/loss": jnp.float32(1.5)})
  progress.write_scalars(200, {"eval/test/accuracy": 0.912, "eval/n": 1e6})
  progress.close()
  assert stream.getvalue().splitlines() == [
    "step 100 train/loss 2.5 train/lr 3e-05",
    "step 200 train/loss 1.5 [128.0 img/s, 06:40 left]",
    "step 200 eval/test/accuracy 0.912 eval/n 1e+06",
  ]


def test_progress_speed_leaves_out_evaluation_and_time_left_does_not():
  stream, clock = io.StringIO(), _Clock()
  progress = writer.ProgressWriter(400, 100, 0, stream, clock)
  progress.write_scalars(200, {"train/loss": 1.0})
  clock.secs += 30
  progress.write_scalars(200, {"eval/a": 1.0})
  clock.secs += 50
  progress.write_scalars(300, {"train/loss": 1.0})
  clock.secs += 20
  progress.write_scalars(350, {"train/loss": 1.0})
  assert stream.getvalue().splitlines()[-2:] == [
    "step 300 train/loss 1 [2.00 steps/s, 01:20 left]",
    "step 350 train/loss 1 [2.50 steps/s, 00:33 left]",
  ]


def test_progress_survives_nan_and_steps_past_the_end():
  stream, clock = io.StringIO(), _Clock()
  progress = writer.ProgressWriter(10, 0, 1, stream, clock)
  for step in (9, 10, 11):
    progress.write_scalars(step, {"train/loss": np.nan})
    clock.secs += 1
  last = stream.getvalue().splitlines()[-1]
  assert last == "step 11 train/loss nan [1.0 img/s, 00:00 left]"


def _on_terminal(rows, columns, use):
  """What `use(stream)` makes a terminal of this size receive."""
  lead, terminal = pty.openpty()
  fcntl.ioctl(
    terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0)
  )
  with open(terminal, "w") as stream:
    use(stream)
  received = []
  # Linux ends the output of a closed terminal with an error.
  with contextlib.suppress(OSError):
    while chunk := os.read(lead, 1000):
      received.append(chunk)
  os.close(lead)
  return b"".join(received).decode()


def _train_a_little(stream):
  clock = _Clock()
  progress = writer.ProgressWriter(1000, 100, 64, stream, clock)
  progress.write_scalars(200, {"train/loss": 2.5, "train/lr": 3e-5})
  clock.secs += 50
  progress.write_scalars(300, {"train/loss": 1.5, "train/lr": 3e-5})
  progress.write_scalars(300, {"eval/test/accuracy": 0.912})
  progress.close()
  stream.write("next")


def test_progress_shows_a_bar_on_a_terminal():
  received = _on_terminal(24, 100, _train_a_little)
  assert " 10%|" in received
  assert "| 100/1000 [" in received
  assert "| 300/1000 [" in received
  assert ", loss 1.5, 128.0 img/s, 05:50 left]" in received
  assert "train/" not in received
  assert "\rstep 300 eval/test/accuracy 0.912\r\n" in received
  # The bar stays, and what comes after starts on a line of its own.
  assert received.endswith(" left]\r\nnext")


def test_progress_writes_plain_lines_on_a_terminal_without_size():
  received = _on_terminal(0, 0, _train_a_little)
  assert "step 300 train/loss 1.5" in received
  assert "step 300 eval/test/accuracy 0.912" in received


class _Recorder(writer.MetricWriter):
  def __init__(self):
    self.calls = []

  def write_scalars(self, step, scalars):
    self.calls.append(("scalars", step, scalars))

  def write_images(self, step, images):
    self.calls.append(("images", step, images))

  def write_texts(self, step, texts):
    self.calls.append(("texts", step, texts))

  def write_hparams(self, hparams):
    self.calls.append(("hparams", hparams))

  def flush(self):
    self.calls.append(("flush",))

  def close(self):
    self.calls.append(("close",))


def test_multi_writer_writes_to_all():
  recorders = [_Recorder(), _Recorder()]
  multi = writer.MultiWriter(recorders)
  multi.write_scalars(1, {"a": jnp.float32(0.5)})
  multi.write_images(2, {"b": 1})
  multi.write_texts(3, {"c": "d"})
  multi.write_hparams({"lr": 0.1})
  multi.flush()
  multi.close()
  for recorder in recorders:
    # A JAX number would be fetched from the device once for each writer.
    assert type(recorder.calls[0][2]["a"]) is float
    assert recorder.calls == [
      ("scalars", 1, {"a": 0.5}),
      ("images", 2, {"b": 1}),
      ("texts", 3, {"c": "d"}),
      ("hparams", {"lr": 0.1}),
      ("flush",),
      ("close",),
    ]


def test_multi_writer_closes_all_though_one_fails():
  class Failing(writer.MetricWriter):
    def close(self):
      raise OSError("disk full")

  first, last = _Recorder(), _Recorder()
  with pytest.raises(OSError, match="disk full"):
    writer.MultiWriter([first, Failing(), last]).close()
  assert first.calls == last.calls == [("close",)]


def test_create_resumes_metrics_at_the_restored_step(tmp_path, capsys):
  workdir = tmp_path / "new" / "run"
  for start_step, last in ((0, 40), (20, 30)):
    _make_older(workdir)
    metrics = writer.create(
      workdir,
      total_steps=40,
      start_step=start_step,
      batch_size=8,
      is_lead=True,
    )
    for step in range(start_step + 10, last + 1, 10):
      metrics.write_scalars(step, {"train/loss": float(last)})
    metrics.close()
  lines = _lines(workdir / "metrics.jsonl")
  assert [(m["step"], m["train/loss"]) for m in lines] == [
    (10, 40.0),
    (20, 40.0),
    (30, 30.0),
  ]
  events = _accumulate(workdir).Tensors("train/loss")
  assert [event.step for event in events] == [10, 20, 30]
  shown = capsys.readouterr().err
  assert "step 30 train/loss 30" in shown
  assert " img/s, " in shown


def test_create_leaves_the_disk_alone_on_other_hosts(tmp_path):
  metrics = writer.create(
    tmp_path / "run", total_steps=9, start_step=0, batch_size=8, is_lead=False
  )
  metrics.write_scalars(1, {"train/loss": 1.0})
  metrics.close()
  assert not os.listdir(tmp_path)
