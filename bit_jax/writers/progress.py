"""Shows the progress of training on the terminal or in a log."""
# Methods that override MetricWriter's have their docstrings there.
# ruff: noqa: D102

import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import SupportsFloat, TextIO

import tqdm

from bit_jax.writers.base import MetricWriter

# Seconds between two updates of the bar, or two lines, without metrics.
_BAR_SECS, _LINE_SECS = 1.0, 60.0


class ProgressWriter(MetricWriter):
  """Shows the progress of training as a bar or as lines.

  On a terminal, this is a bar with the loss, the speed and the time left, and
  above it a line for each write of metrics other than training's. Elsewhere (a
  log file, a pipe), it is a plain line for each write, and one every minute
  without any.

  The speed is measured between two writes, without the time of an evaluation
  between them. Speed and time left are shown from the second training write on,
  because the time before the first one includes the compilation.

  Args:
    total_steps: The step at which training ends.
    start_step: The step it starts from, > 0 after a resume.
    batch_size: Images per step, to show the speed in img/s; 0 for steps/s.
    stream: The stream to write to; None for standard error.
    clock: Returns the time in seconds.
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
      # Hashes are for comparing runs, not for people.
      if not name.endswith("_hash")
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


def _is_terminal(stream: TextIO) -> bool:
  # A container's terminal may have a size of 0, in which tqdm shows nothing.
  return stream.isatty() and min(os.get_terminal_size(stream.fileno())) > 0
