import io
import sys
import threading

import pytest

from bit_jax import progress
from bit_jax.progress import Activity


class Clock:
  """A clock that the test sets."""

  secs = 100.0

  def __call__(self):
    return self.secs


@pytest.fixture
def heard():
  """What listeners are told from here on."""
  lines = []
  with progress.listening(lines.append):
    lines.clear()
    yield lines


def test_what_is_said_goes_to_stderr_and_to_listeners(capsys, heard):
  progress.say("one\ntwo")
  progress.note("shown in another way")
  assert capsys.readouterr() == ("", "one\ntwo\n")
  assert heard == ["one\ntwo", "shown in another way"]


def test_a_listener_gets_what_was_said_just_before(capsys):
  with progress.listening(lambda text: None):
    progress.say("in another run")
  progress.say("run 2 of 3")
  lines = []
  with progress.listening(lines.append):
    progress.say("go")
  with progress.listening(lines.append):
    assert lines == ["run 2 of 3", "go"]


def test_a_mute_process_says_nothing(capsys, heard):
  progress.mute()
  try:
    progress.say("one of several")
  finally:
    progress.mute(False)
  assert capsys.readouterr().err == ""
  assert not heard


def test_nothing_is_shown_where_stderr_is_closed(monkeypatch, capsys, heard):
  monkeypatch.setattr(sys, "stderr", None)
  progress.say("x")
  assert heard == ["x"]
  assert capsys.readouterr().out == ""


def test_a_line_may_wait_for_the_next(capsys):
  progress.say_before_next("imported")
  assert capsys.readouterr().err == ""
  progress.say("ready")
  progress.say("go")
  assert capsys.readouterr().err == "imported\nready\ngo\n"


def test_many_runs_show_a_line_now_and_then(capsys, heard, monkeypatch):
  clock = Clock()
  monkeypatch.setattr(progress.time, "monotonic", clock)
  monkeypatch.setattr(progress, "EVERY_SECS", 4.0)
  progress.say("start")
  with progress.briefly("5_0_scratch"):
    assert progress.is_brief()
    for text in "abcdefg":
      clock.secs += 1.5
      progress.say(f"first\n{text}")
  assert capsys.readouterr().err.splitlines() == [
    "start",
    "5_0_scratch: c",
    "5_0_scratch: f",
  ]
  assert heard == ["start", *(f"first\n{text}" for text in "abcdefg")]
  assert not progress.is_brief()


@pytest.mark.parametrize(
  ("total", "done", "secs", "text"),
  [
    (0, 0, 12, "it ... 12 s"),
    (0, 0, 4000, "it ... 1:06:40"),
    (200, 0, 7, "it: 0 of 200 images, 7 s so far"),
    (2000, 500, 10, "it: 500 of 2,000 images, 50 images/s, 30 s left"),
    (20, 2, 20, "it: 2 of 20 images, 03:00 left"),
    # The last batch is filled up.
    (20, 32, 4, "it: 20 of 20 images, 5 images/s, 0 s left"),
  ],
)
def test_the_line_of_an_activity(total, done, secs, text):
  clock = Clock()
  doing = Activity("it", total, "images", clock)
  doing.add(done)
  clock.secs += secs
  assert doing.text() == text


def test_days_are_told_as_days():
  assert progress.duration(9) == "9 s"
  assert progress.duration(3.5 * 86400) == "3.5 days"


def test_blocks_are_counted_once_they_are_used():
  doing = Activity("it", 5, "rows", Clock())
  seen = [doing.text().split(",")[0] for _ in doing.counting(["ab", "cd", "e"])]
  assert seen == [f"it: {n} of 5 rows" for n in (0, 2, 4)]
  assert doing.text().startswith("it: 5 of 5")


def test_silence_is_ended_by_the_innermost_activity(monkeypatch):
  shown, two = io.StringIO(), threading.Event()

  def say(text):
    shown.write(f"{text}\n")
    if shown.getvalue().count("inner") == 2:
      two.set()

  monkeypatch.setattr(progress, "EVERY_SECS", 0.0)
  monkeypatch.setattr(progress, "say", say)
  with progress.activity("outer"), progress.activity("inner", 3, "steps"):
    assert two.wait(60)
  assert not [t for t in threading.enumerate() if t.name == "progress"]
  lines = [line.split(",")[0] for line in shown.getvalue().splitlines()]
  # The outer one may be shown before the inner one begins, and never after.
  inner = lines[lines.index("inner: 0 of 3 steps") :]
  assert set(inner) == {"inner: 0 of 3 steps"}


def test_what_is_over_soon_is_not_shown(capsys):
  with progress.activity("quick"):
    pass
  assert capsys.readouterr().err == ""


def test_a_generator_that_ends_late_leaves_nothing():
  def blocks():
    with progress.activity("inner"):
      yield 1

  with progress.activity("outer"):
    generator = blocks()
    next(generator)
  assert progress._ticker._activities
  generator.close()
  assert not progress._ticker._activities


@pytest.mark.parametrize(
  ("begin", "since"),
  [
    # Activities with a short pause between them are one for those who wait.
    (100.5, 90.0),
    (110.0, 110.0),
  ],
)
def test_from_when_silence_counts(monkeypatch, begin, since):
  clock, ticker = Clock(), progress._ticker
  monkeypatch.setattr(progress.time, "monotonic", clock)
  monkeypatch.setattr(ticker, "_imported", 0.0)
  monkeypatch.setattr(ticker, "_idle_since", 100.0)
  monkeypatch.setattr(ticker, "quiet_since", 90.0)
  monkeypatch.setattr(progress, "say", lambda text: None)
  clock.secs = begin
  with progress.activity("x"):
    assert ticker.quiet_since == since
