"""Writers of metrics to JSON lines, TensorBoard and the terminal.

None of them imports TensorFlow, even if it is installed.
"""
# Methods that override MetricWriter's have their docstrings there.
# ruff: noqa: D102

import contextlib
import json
import math
import sys
import time
import types
from collections.abc import Mapping, Sequence
from typing import Any, SupportsFloat

from etils import epath

from bit_jax.storage import remote
from bit_jax.writers.base import MetricWriter
from bit_jax.writers.metrics_file import METRICS_FILE, truncate_after
from bit_jax.writers.progress import ProgressWriter


class JsonlWriter(MetricWriter):
  """Appends one JSON object per write to a file, and flushes it.

  A line is {"step": 500, "train/loss": 0.91, ...}. JSON has neither NaN nor
  infinity: both become null, which pandas reads as NaN.
  """

  def __init__(self, path: epath.PathLike):
    self._path = path
    with remote.writing(path):
      self._file = epath.Path(path).open("a", encoding="utf-8")

  def write_scalars(
    self, step: int, scalars: Mapping[str, SupportsFloat]
  ) -> None:
    values = {name: float(value) for name, value in scalars.items()}
    record = {
      name: value if math.isfinite(value) else None
      for name, value in values.items()
    }
    line = json.dumps({"step": int(step), **record}, allow_nan=False)
    with remote.writing(self._path):
      self._file.write(line + "\n")
      self._file.flush()

  def close(self) -> None:
    with remote.writing(self._path):
      self._file.close()


class TensorBoardWriter(MetricWriter):
  """Writes TensorBoard events in a thread of its own.

  A write only puts an event in an unbounded queue, so that a slow disk never
  delays the training loop; the thread flushes every ten seconds.

  Args:
    logdir: Folder of the event file; created if missing.
    start_step: The restored step. TensorBoard hides events of later steps that
      an earlier, killed process left in `logdir`.
  """

  def __init__(self, logdir: epath.PathLike, start_step: int = 0):
    tb = _import_tensorboard()
    self._tb = tb
    self._logdir = logdir
    with remote.writing(logdir):
      self._events = tb.EventFileWriter(
        str(epath.Path(logdir)), max_queue_size=0, flush_secs=10
      )
    start = tb.event_pb2.SessionLog(status=tb.event_pb2.SessionLog.START)
    self._add(start_step + 1, session_log=start)

  def write_scalars(
    self, step: int, scalars: Mapping[str, SupportsFloat]
  ) -> None:
    for name, value in scalars.items():
      self._add(step, summary=self._tb.scalar_pb(name, float(value)))

  def close(self) -> None:
    with remote.writing(self._logdir):
      self._events.close()

  def _add(self, step: int, **what: Any) -> None:
    event = self._tb.event_pb2.Event(
      wall_time=time.time(), step=int(step), **what
    )
    # Here it raises what its thread has met before.
    with remote.writing(self._logdir):
      self._events.add_event(event)


class MirrorWriter(MetricWriter):
  """Copies the files of other writers to a store; must be closed after them.

  Args:
    mirror: The mirror of the local folder that the others write to.
  """

  def __init__(self, mirror: remote.Mirror):
    self._mirror = mirror

  def flush(self) -> None:
    self._mirror.request()

  def close(self) -> None:
    self._mirror.close()


class MultiWriter(MetricWriter):
  """Writes to several writers."""

  def __init__(self, writers: Sequence[MetricWriter]):
    self._writers = tuple(writers)

  def write_scalars(
    self, step: int, scalars: Mapping[str, SupportsFloat]
  ) -> None:
    # Values are read from the device once, not once per writer.
    values = {name: float(value) for name, value in scalars.items()}
    for writer in self._writers:
      writer.write_scalars(step, values)

  def progress(self, step: int) -> None:
    for writer in self._writers:
      writer.progress(step)

  def flush(self) -> None:
    for writer in self._writers:
      writer.flush()

  def close(self) -> None:
    # All writers are closed, the last one first, even if one of them raises.
    with contextlib.ExitStack() as stack:
      for writer in self._writers:
        stack.callback(writer.close)


def create(
  workdir: epath.PathLike,
  *,
  total_steps: int,
  start_step: int,
  batch_size: int,
  is_lead: bool,
  train_line_secs: float = 0.0,
) -> MetricWriter:
  """Builds the writers of a training run.

  Args:
    workdir: The work directory, for metrics.jsonl and TensorBoard events;
      created if missing. If it is in an object store, local files are copied to
      it from time to time, soon after a flush, and on closing.
    total_steps: The step at which training ends.
    start_step: The restored step. Metrics of later steps are removed from
      metrics.jsonl, since these steps are run again.
    batch_size: Images per step, over all hosts.
    is_lead: True on one host; on the others, the writer does nothing.
    train_line_secs: Least seconds between two shown lines of training metrics.

  Returns:
    A writer to all of them.

  Raises:
    InputError: There is a metrics.jsonl that is not one of ours, or files
      cannot be written. Also raised by the writer.
    UnavailableError: Likewise, for a reason that may pass: a full disk.
  """
  if not is_lead:
    return MetricWriter()
  workdir = epath.Path(workdir)
  with contextlib.ExitStack() as stack:
    writers: list[MetricWriter] = []
    folder, metrics = workdir, workdir / METRICS_FILE
    if remote.is_remote(workdir):
      mirror = remote.Mirror(workdir)
      stack.callback(mirror.close)
      # The first writer is closed last: when the others' files are complete.
      writers.append(MirrorWriter(mirror))
      folder = mirror.folder
    else:
      folder.mkdir(parents=True, exist_ok=True)
    truncate_after(metrics, start_step, folder / METRICS_FILE)
    writers += [
      JsonlWriter(folder / METRICS_FILE),
      TensorBoardWriter(folder, start_step),
      ProgressWriter(
        total_steps, start_step, batch_size, train_line_secs=train_line_secs
      ),
    ]
    stack.pop_all()
  return MultiWriter(writers)


def _import_tensorboard() -> types.SimpleNamespace:
  """Imports and returns the parts of TensorBoard that write events."""
  # If TensorFlow is installed, TensorBoard uses it for file access, which costs
  # seconds and may reserve the accelerator's memory. It uses its own file
  # access if it can import a module of this name.
  notf = "tensorboard.compat.notf"
  sys.modules.setdefault(notf, types.ModuleType(notf))
  from tensorboard.compat.proto import event_pb2
  from tensorboard.plugins.scalar import summary_v2 as scalar
  from tensorboard.summary.writer import event_file_writer

  return types.SimpleNamespace(
    EventFileWriter=event_file_writer.EventFileWriter,
    event_pb2=event_pb2,
    scalar_pb=scalar.scalar_pb,
  )
