"""Tests of writer.py."""

import json
import os
import pathlib
import subprocess
import sys
import textwrap
import threading

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboard.backend.event_processing import plugin_event_accumulator

from bit_jax.errors import UnavailableError
from bit_jax.writers import writer
from bit_jax.writers.base import MetricWriter


def _lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def _accumulate(logdir):
  accumulator = plugin_event_accumulator.EventAccumulator(str(logdir))
  accumulator.Reload()
  return accumulator


def _make_older(logdir):
  """Renames event files as if they had been created seconds earlier."""
  for i, path in enumerate(logdir.glob("events.out.tfevents.*")):
    path.rename(path.with_name(f"events.out.tfevents.{i}"))


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
  root = pathlib.Path(writer.__file__).parents[2]
  program = """
    import sys
    from bit_jax.writers import writer
    assert not any(m.startswith("tensorboard") for m in sys.modules)
    w = writer.create(
      sys.argv[1], total_steps=9, start_step=0, batch_size=1, is_lead=True)
    w.write_scalars(1, {"train/loss": 1.0})
    w.close()
    assert "tensorflow" not in sys.modules
  """
  subprocess.run(
    [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "run")],
    env={**os.environ, "PYTHONPATH": f"{fake.parent}:{root}"},
    check=True,
    timeout=60,
  )


class _Recorder(MetricWriter):
  def __init__(self):
    self.calls = []

  def write_scalars(self, step, scalars):
    self.calls.append(("scalars", step, scalars))

  def flush(self):
    self.calls.append(("flush",))

  def close(self):
    self.calls.append(("close",))


def test_multi_writer_writes_to_all():
  recorders = [_Recorder(), _Recorder()]
  multi = writer.MultiWriter(recorders)
  multi.write_scalars(1, {"a": jnp.float32(0.5)})
  multi.flush()
  multi.close()
  for recorder in recorders:
    # A JAX number would be fetched from the device once for each writer.
    assert type(recorder.calls[0][2]["a"]) is float
    assert recorder.calls == [
      ("scalars", 1, {"a": 0.5}),
      ("flush",),
      ("close",),
    ]


def test_multi_writer_closes_the_last_one_first():
  closed = []

  class Closing(MetricWriter):
    def close(self):
      closed.append(self)

  writers = [Closing(), Closing()]
  writer.MultiWriter(writers).close()
  assert closed == writers[::-1]


def test_multi_writer_closes_all_though_one_fails():
  class Failing(MetricWriter):
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


def test_a_full_disk_is_named_with_the_file(tmp_path):
  """/dev/full is a file on a disk without space."""
  (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
  message = "metrics.jsonl: cannot be written: No space left on device"
  jsonl = writer.JsonlWriter(tmp_path / "metrics.jsonl")
  with pytest.raises(UnavailableError, match=message):
    jsonl.write_scalars(1, {"a": 1.0})
  with pytest.raises(UnavailableError, match=message):
    jsonl.close()
