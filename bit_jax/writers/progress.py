"""Shows the progress of training on the terminal or in a log."""
# Methods that override MetricWriter's have their docstrings there.
# ruff: noqa: D102

import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import SupportsFloat, TextIO

import tqdm

from bit_jax import progress
from bit_jax.writers import metric_text
from bit_jax.writers.base import MetricWriter

# Seconds between two updates of the bar, or two lines, without metrics.
_BAR_SECS, _LINE_SECS = 1.0, 4.0
# After this time a line a minute is enough: the log of a run of days must not
# grow by one every few seconds.
_LONG_SECS, _LONG_LINE_SECS = 3600.0, 60.0


class ProgressWriter(MetricWriter):
  """Shows the progress of training as a bar or as lines.

  On a terminal, this is a bar with the loss, the speed and the time left, and
  above it a line for each write of metrics other than training's. Elsewhere (a
  log file, a pipe), it is a plain line for each write, and one every few
  seconds without any: every minute after the first hour. Steps that take longer
  than that, and the compilation before the first, are shown as well.

  The speed is measured between two writes, without the time of an evaluation
  between them. Speed and time left are shown from the second training write on,
  because the time before the first one includes the compilation.

  Args:
    total_steps: The step at which training ends.
    start_step: The step it starts from, > 0 after a resume.
    batch_size: Images per step, to show the speed in img/s; 0 for steps/s.
    train_line_secs: Least seconds between two lines of training metrics, where
      they are written more often than people can read; 0 shows all.
    stream: The stream to write to; None for `progress.say`.
    clock: Returns the time in seconds.
  """

  def __init__(
    self,
    total_steps: int,
    start_step: int = 0,
    batch_size: int = 0,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
    *,
    train_line_secs: float = 0.0,
  ):
    self._start_step, self._total_steps = start_step, total_steps
    self._batch_size = batch_size
    self._train_line_secs = train_line_secs
    self._own_stream = stream
    self._stream = sys.stderr if stream is None else stream
    self._clock = clock
    self._first_write: tuple[int, float] | None = None
    self._last_write: tuple[int, float] | None = None
    self._started = self._shown = self._stepped = clock()
    self._train_shown = -float("inf")
    self._step = start_step
    self._bar: tqdm.tqdm | None = None
    with_bar = _is_terminal(self._stream) and not progress.is_brief()
    if with_bar and total_steps > start_step:
      self._bar = tqdm.tqdm(
        total=total_steps,
        initial=start_step,
        file=self._stream,
        dynamic_ncols=True,
        bar_format="{percentage:3.0f}%|{bar}| {n}/{total} [{elapsed}{postfix}]",
      )
    self._activity = _Steps(self)
    self._activity.start()

  def write_scalars(
    self, step: int, scalars: Mapping[str, SupportsFloat]
  ) -> None:
    values = {
      name: metric_text.number(name, float(value))
      for name, value in scalars.items()
      if metric_text.is_for_people(name)
    }
    is_train = any(name.startswith("train/") for name in values)
    if is_train:
      self._moved(step)
    now = self._clock()
    # The last step is shown in any case.
    is_last = step >= self._total_steps
    too_soon = now - self._train_shown < self._train_line_secs
    if is_train and too_soon and not is_last:
      self.progress(step)
      return
    self._train_shown = now if is_train else self._train_shown
    self._shown = now
    pace = self._pace(int(step), is_train)
    words = [f"{name} {value}" for name, value in values.items()]
    line = " ".join([f"step {int(step)}", *words])
    line += f" [{', '.join(pace)}]" if pace else ""
    if self._bar is not None and is_train:
      loss = values.get("train/loss")
      shown = ([] if loss is None else [f"loss {loss}"]) + pace
      self._bar.n = int(step)
      self._bar.set_postfix_str(", ".join(shown), refresh=True)
      progress.note(line)
      values = {k: v for k, v in values.items() if not k.startswith("train/")}
      line = " ".join(
        [f"step {int(step)}", *(f"{k} {v}" for k, v in values.items())]
      )
    if values:
      self._write_line(line)

  def progress(self, step: int) -> None:
    self._moved(step)
    if self._clock() - self._shown < self._line_secs():
      return
    self._shown, bar = self._clock(), self._bar
    if bar is not None:
      bar.n = step
      bar.refresh()
      return
    pace = ", ".join(self._pace(step, is_train=True))
    line = f"step {step} of {self._total_steps}" + (
      f" [{pace}]" if pace else ""
    )
    self._write_line(line)

  def show(self) -> None:
    """Shows that it goes on, when nothing was shown for a while."""
    # Otherwise it has been silent for long enough. What this writer showed may
    # not have been seen: see `progress.briefly`.
    is_often = self._bar is not None or self._line_secs() > _LINE_SECS
    if is_often and self._clock() - self._shown < self._line_secs():
      return
    self._shown = self._clock()
    if self._bar is not None:
      if self._step == self._start_step:
        self._bar.set_postfix_str("compiling the step", refresh=False)
      self._bar.refresh()  # Its time goes on.
      return
    secs = progress.duration(self._clock() - self._stepped)
    line = f"step {self._step} of {self._total_steps} is done; {secs} since"
    if self._step == self._start_step:
      line = f"compiling and running the first step ... {secs}"
    self._write_line(line)

  def _line_secs(self) -> float:
    if self._bar is not None:
      return _BAR_SECS
    is_long = self._clock() - self._started > _LONG_SECS
    return _LONG_LINE_SECS if is_long else _LINE_SECS

  def _moved(self, step: int) -> None:
    if step > self._step:
      self._step, self._stepped = int(step), self._clock()

  def _write_line(self, line: str) -> None:
    if self._own_stream is None:
      progress.say(line)
    else:
      tqdm.tqdm.write(line, file=self._stream)

  def close(self) -> None:
    self._activity.stop()
    if self._bar is not None:
      self._bar.close()

  def _pace(self, step: int, is_train: bool) -> list[str]:
    """Returns the speed since the last write and the time left, if known."""
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


class _Steps(progress.Activity):
  """The steps of a run, as an activity that its writer shows."""

  def __init__(self, writer: ProgressWriter):
    super().__init__("steps")
    self._writer = writer

  def show(self) -> None:
    self._writer.show()


def _is_terminal(stream: TextIO) -> bool:
  # A container's terminal may have a size of 0, in which tqdm shows nothing.
  return stream.isatty() and min(os.get_terminal_size(stream.fileno())) > 0
