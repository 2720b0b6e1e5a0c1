import contextlib
import fcntl
import io
import os
import pty
import struct
import termios

import jax.numpy as jnp
import numpy as np

from bit_jax.writers.progress import ProgressWriter


class _Clock:
  """A clock that the test sets."""

  def __init__(self):
    self.secs = 100.0

  def __call__(self):
    return self.secs


def test_progress_writes_plain_lines_where_there_is_no_terminal():
  stream, clock = io.StringIO(), _Clock()
  progress = ProgressWriter(1000, 0, 64, stream, clock)
  progress.write_scalars(100, {"train/loss": 2.5, "train/lr": 3e-5})
  clock.secs += 50
  progress.write_scalars(200, {"train/loss": jnp.float32(1.5)})
  progress.write_scalars(200, {"eval/test/accuracy": 0.912, "eval/n": 1e6})
  progress.close()
  assert stream.getvalue().splitlines() == [
    "step 100 train/loss 2.5 train/lr 3e-05",
    "step 200 train/loss 1.5 [128.0 img/s, 06:40 left]",
    "step 200 eval/test/accuracy 91.2 % eval/n 1e+06",
  ]


def test_progress_speed_leaves_out_evaluation_and_time_left_does_not():
  stream, clock = io.StringIO(), _Clock()
  progress = ProgressWriter(400, 100, 0, stream, clock)
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


def test_progress_tells_of_a_step_every_few_seconds_without_metrics():
  stream, clock = io.StringIO(), _Clock()
  progress = ProgressWriter(1000, 0, 0, stream, clock)
  progress.write_scalars(1, {"train/loss": 1.0})
  for step in range(2, 7):
    clock.secs += 2
    progress.progress(step)
  progress.write_scalars(7, {"train/loss": 0.5})
  clock.secs += 3
  progress.progress(8)
  assert stream.getvalue().splitlines() == [
    "step 1 train/loss 1",
    "step 3 of 1000 [0.50 steps/s, 33:14 left]",
    "step 5 of 1000 [0.50 steps/s, 33:10 left]",
    "step 7 train/loss 0.5 [1.00 steps/s, 27:35 left]",
  ]


def test_a_run_of_hours_tells_of_a_step_every_minute():
  stream, clock = io.StringIO(), _Clock()
  progress = ProgressWriter(100_000, 0, 0, stream, clock)
  clock.secs += 3700
  for step in range(1, 31):
    clock.secs += 5
    progress.progress(step)
    progress.show()
  lines = stream.getvalue().splitlines()
  assert [line.split()[1] for line in lines] == ["1", "13", "25"]


def test_lines_for_people_are_fewer_than_those_that_are_written():
  stream, clock = io.StringIO(), _Clock()
  progress = ProgressWriter(9, 0, 0, stream, clock, train_line_secs=1.0)
  for step in range(1, 10):
    progress.write_scalars(step, {"train/loss": float(step)})
    clock.secs += 0.25
  progress.write_scalars(9, {"eval/a": 1.0})
  lines = [line.split(" [")[0] for line in stream.getvalue().splitlines()]
  assert lines == [
    "step 1 train/loss 1",
    "step 5 train/loss 5",
    "step 9 train/loss 9",
    "step 9 eval/a 1",
  ]


def test_a_compilation_and_a_slow_step_are_no_silence():
  stream, clock = io.StringIO(), _Clock()
  progress = ProgressWriter(9, 2, 0, stream, clock)
  for secs in (6, 60):
    clock.secs += secs
    progress.show()
  progress.write_scalars(3, {"train/loss": 1.0})
  clock.secs += 7
  progress.show()
  assert stream.getvalue().splitlines() == [
    "compiling and running the first step ... 6 s",
    "compiling and running the first step ... 01:06",
    "step 3 train/loss 1",
    "step 3 of 9 is done; 7 s since",
  ]


def test_a_bar_shows_the_compilation():
  def use(stream):
    clock = _Clock()
    progress = ProgressWriter(1000, 0, 64, stream, clock)
    clock.secs += 2
    progress.show()
    progress.close()

  assert "compiling the step]" in _on_terminal(24, 100, use)


def test_progress_moves_the_bar_between_metrics():
  def use(stream):
    clock = _Clock()
    progress = ProgressWriter(1000, 100, 64, stream, clock)
    progress.write_scalars(200, {"train/loss": 2.5})
    for step in (201, 202, 203):
      clock.secs += 0.6
      progress.progress(step)
    progress.close()

  received = _on_terminal(24, 100, use)
  assert "| 202/1000 [" in received
  assert "| 201/1000" not in received
  assert "loss 2.5]" in received.split("202/1000")[1]
  assert "of 1000" not in received


def test_progress_survives_nan_and_steps_past_the_end():
  stream, clock = io.StringIO(), _Clock()
  progress = ProgressWriter(10, 0, 1, stream, clock)
  for step in (9, 10, 11):
    progress.write_scalars(step, {"train/loss": np.nan})
    clock.secs += 1
  last = stream.getvalue().splitlines()[-1]
  assert last == "step 11 train/loss nan [1.0 img/s, 00:00 left]"


def _on_terminal(rows, columns, use):
  """Returns what a terminal of this size receives from `use(stream)`."""
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
  progress = ProgressWriter(1000, 100, 64, stream, clock)
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
  assert "\rstep 300 eval/test/accuracy 91.2 %\r\n" in received
  # The bar stays, and what comes after starts on a line of its own.
  assert received.endswith(" left]\r\nnext")


def test_progress_writes_plain_lines_on_a_terminal_without_size():
  received = _on_terminal(0, 0, _train_a_little)
  assert "step 300 train/loss 1.5" in received
  assert "step 300 eval/test/accuracy 91.2 %" in received


def test_what_was_written_but_not_seen_ends_no_silence():
  stream, clock = io.StringIO(), _Clock()
  progress = ProgressWriter(9, 0, 0, stream, clock)
  progress.write_scalars(1, {"train/loss": 1.0})
  clock.secs += 1
  progress.show()  # It is called after seconds in which nothing was seen.
  assert stream.getvalue().count("\n") == 2
