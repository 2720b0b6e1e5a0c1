"""Metrics to JSON lines, TensorBoard and the terminal.

The interface is that of `clu.metric_writers`, whose own writers import
TensorFlow; nothing here does, even where TensorFlow is installed.
"""
# A method that overrides one of MetricWriter has its docstring there.
# ruff: noqa: D102

import contextlib
import json
import math
import os
import sys
import time
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, SupportsFloat, TextIO

import cv2
import numpy as np
import tqdm
from etils import epath

from bit_jax import remote
from bit_jax.metrics_file import METRICS_FILE, truncate_after

# Between two signs of life, where metrics are written less often.
_BAR_SECS, _LINE_SECS = 1.0, 60.0


class MetricWriter:
  """The interface; by itself it ignores all that is written to it.

  A subclass overrides what it can show. Steps count finished updates. Scalars
  may be Python, NumPy or JAX numbers; reading a JAX one waits for the device.
  """

  def write_scalars(
    self, step: int, scalars: Mapping[str, SupportsFloat]
  ) -> None:
    """Writes metrics such as {"train/loss": 6.9} of one step."""

  def progress(self, step: int) -> None:
    """Tells of a finished step of which no metrics are written."""

  def flush(self) -> None:
    """Lets what was written be seen soon by others; does not wait for it."""

  def close(self) -> None:
    """Completes what was written; nothing may be written after.

    Raises:
      InputError: the work directory, in an object store, cannot be written to.
    """


class JsonlWriter(MetricWriter):
  """Appends one JSON object a write to a file, flushed line by line.

  A line is {"step": 500, "train/loss": 0.91, ...}. JSON knows neither NaN nor
  infinity: both become null, which pandas reads as NaN again.
  """

  def __init__(self, path: epath.PathLike):
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
    self._file.write(line + "\n")
    self._file.flush()

  def close(self) -> None:
    self._file.close()


class TensorBoardWriter(MetricWriter):
  """Writes TensorBoard events from a thread of its own.

  Writing only puts an event in an unbounded queue, so a slow disk never holds
  up the training loop; the thread flushes every ten seconds.

  Args:
    logdir: where the event file goes; made if missing.
    start_step: events of later steps that an earlier, killed process left in
      `logdir` are hidden by TensorBoard.
  """

  def __init__(self, logdir: epath.PathLike, start_step: int = 0):
    tb = _import_tensorboard()
    self._tb = tb
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
    self._events.close()

  def _add(self, step: int, **what: Any) -> None:
    self._events.add_event(
      self._tb.event_pb2.Event(wall_time=time.time(), step=int(step), **what)
    )


class ProgressWriter(MetricWriter):
  """Shows on the terminal how far training is.

  On a terminal: a bar with the loss, the speed and the time left, and a line
  above it for each write of other metrics than training ones. Elsewhere (a log
  file, a pipe): a plain line for every write, and for a step in each minute
  without any.

  The speed is that between two writes, without the time that evaluation took
  between them. Speed and time left need two training writes: the first one
  holds the compilation and would mislead.

  Args:
    total_steps: the step at which training ends.
    start_step: the step it starts from, > 0 after a resume.
    batch_size: images a step, to give the speed in img/s; 0: in steps/s.
    stream: where to write; standard error if None.
    clock: a function that gives the time in seconds.
  """

  def __init__(
    self,
    total_steps: int,
    start_step: int = 0,
    batch_size: int = 0,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
  ):
    self._total_steps = total_steps
    self._batch_size = batch_size
    self._stream = sys.stderr if stream is None else stream
    self._clock = clock
    self._first_write: tuple[int, float] | None = None
    self._last_write: tuple[int, float] | None = None
    self._shown = clock()
    self._bar: tqdm.tqdm | None = None
    if _is_terminal(self._stream) and total_steps > start_step:
      self._bar = tqdm.tqdm(
        total=total_steps,
        initial=start_step,
        file=self._stream,
        dynamic_ncols=True,
        bar_format="{percentage:3.0f}%|{bar}| {n}/{total} [{elapsed}{postfix}]",
      )

  def write_scalars(
    self, step: int, scalars: Mapping[str, SupportsFloat]
  ) -> None:
    values = {
      name: f"{float(value):.5g}"
      for name, value in scalars.items()
      if not name.endswith("_hash")  # To compare runs by, not to read.
    }
    self._shown = self._clock()
    is_train = any(name.startswith("train/") for name in values)
    pace = self._pace(int(step), is_train)
    if self._bar is not None and is_train:
      loss = values.get("train/loss")
      shown = ([] if loss is None else [f"loss {loss}"]) + pace
      self._bar.n = int(step)
      self._bar.set_postfix_str(", ".join(shown), refresh=True)
      values = {k: v for k, v in values.items() if not k.startswith("train/")}
    if values:
      words = [f"{name} {value}" for name, value in values.items()]
      line = " ".join([f"step {int(step)}", *words])
      line += f" [{', '.join(pace)}]" if pace else ""
      tqdm.tqdm.write(line, file=self._stream)

  def progress(self, step: int) -> None:
    now, bar = self._clock(), self._bar
    if now - self._shown < (_LINE_SECS if bar is None else _BAR_SECS):
      return
    self._shown = now
    if bar is not None:
      bar.n = step
      bar.refresh()
      return
    pace = ", ".join(self._pace(step, is_train=True))
    line = f"step {step} of {self._total_steps}" + (
      f" [{pace}]" if pace else ""
    )
    tqdm.tqdm.write(line, file=self._stream)

  def close(self) -> None:
    if self._bar is not None:
      self._bar.close()

  def _pace(self, step: int, is_train: bool) -> list[str]:
    """The speed since the last write and the time left, where known."""
    now = self._clock()
    pace = []
    if is_train and self._first_write is not None and self._last_write:
      first_step, first_time = self._first_write
      last_step, last_time = self._last_write
      if step > last_step and now > last_time:
        speed = (step - last_step) / (now - last_time)
        if self._batch_size:
          pace.append(f"{speed * self._batch_size:.1f} img/s")
        else:
          pace.append(f"{speed:.2f} steps/s")
        step_secs = (now - first_time) / (step - first_step)
        left = max(self._total_steps - step, 0) * step_secs
        pace.append(f"{tqdm.tqdm.format_interval(left)} left")
    if is_train and self._first_write is None:
      self._first_write = step, now
    self._last_write = step, now
    return pace


class MirrorWriter(MetricWriter):
  """Copies what other writers write to a local folder; closed after them."""

  def __init__(self, mirror: remote.Mirror):
    self._mirror = mirror

  def flush(self) -> None:
    self._mirror.request()

  def close(self) -> None:
    self._mirror.close()


class MultiWriter(MetricWriter):
  """Writes everything to each of several writers."""

  def __init__(self, writers: Sequence[MetricWriter]):
    self._writers = tuple(writers)

  def write_scalars(
    self, step: int, scalars: Mapping[str, SupportsFloat]
  ) -> None:
    # Each value leaves the device once, not once for each writer.
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
    # Closes all of them, the last one first, even if one fails; then raises.
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
) -> MetricWriter:
  """Builds the writers of a training run.

  Args:
    workdir: the work directory, made if missing; gets metrics.jsonl and the
      TensorBoard events. One in an object store gets copies of local files: now
      and then, soon after a flush, and when the writer is closed.
    total_steps: the step at which training ends.
    start_step: the restored step; what metrics.jsonl holds of later steps is
      cut off, since they are run again.
    batch_size: images a step, over all hosts.
    is_lead: False on every host but one, which gives a writer that does
      nothing.

  Raises:
    InputError: if there is a metrics.jsonl that is not one of ours.
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
      writers.append(MirrorWriter(mirror))  # The first is closed last.
      folder = mirror.folder
    else:
      folder.mkdir(parents=True, exist_ok=True)
    truncate_after(metrics, start_step, folder / METRICS_FILE)
    writers += [
      JsonlWriter(folder / METRICS_FILE),
      TensorBoardWriter(folder, start_step),
      ProgressWriter(total_steps, start_step, batch_size),
    ]
    stack.pop_all()
  return MultiWriter(writers)


def encode_png(image: np.ndarray) -> bytes:
  """Encodes a uint8[H, W, C] image, C = 1 (grey) or 3 (RGB), as PNG."""
  if image.shape[-1] == 3:
    image = image[..., ::-1]
  return cv2.imencode(".png", np.ascontiguousarray(image))[1].tobytes()


def _is_terminal(stream: TextIO) -> bool:
  # A container's terminal may have no size, and tqdm would show nothing there.
  return stream.isatty() and min(os.get_terminal_size(stream.fileno())) > 0


def _import_tensorboard() -> types.SimpleNamespace:
  """The parts of TensorBoard that write events, imported when first needed."""
  # TensorBoard takes file access from TensorFlow where that is installed, which
  # costs seconds and may reserve the accelerator's memory. That it can import a
  # module of this name is its own switch to built-in file access.
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
