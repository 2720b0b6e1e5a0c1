"""Tells people on standard error what a command does and how long it takes.

Everything but a result goes through here: standard output is for results alone,
so that `COMMAND > result.json` works. Work that may take long is wrapped in an
`Activity`; a thread then shows it whenever nothing else has been shown for a
few seconds:

  with progress.activity("features of cifar10", 10_000, "images") as doing:
    for batch in batches:
      ...
      doing.add(len(batch))

What is shown also reaches those that `listen`, such as a run's log.txt.
"""

import collections
import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TypeVar

import tqdm

# Seconds without a line after which the current activity is shown. Five seconds
# of silence are too many; the rest is for imports before, and a busy machine.
EVERY_SECS = 3.5
_CHECK_SECS = 0.5
# The first activity of a young process counts the time of its imports.
_YOUNG_SECS = 15.0
# Activities this close to each other are one for those who wait.
_PAUSE_SECS = 1.0

Listener = Callable[[str], None]
_T = TypeVar("_T", bound=Sized)

_listeners: list[Listener] = []
# What was said before anybody listened: the first of it a listener gets.
_before: collections.deque[str] = collections.deque(maxlen=100)
_next: list[str] = []
_muted = False
# What is done while only a line now and then is shown.
_brief: list[str] = []


def say(text: str) -> None:
  """Shows a line, or several, to people; does nothing on hosts that are mute.

  Args:
    text: Without the last line break.
  """
  if _muted:
    return
  while _next:
    text = f"{_next.pop()}\n{text}"
  if _brief:
    note(text)
    if time.monotonic() - _ticker.quiet_since < EVERY_SECS:
      return
    text = f"{_brief[-1]}: {text.splitlines()[-1] if text else text}"
  _ticker.quiet_since = time.monotonic()
  if sys.stderr is not None:  # It is None if the shell has closed it.
    # Unlike print, it leaves a bar of tqdm whole.
    tqdm.tqdm.write(text, file=sys.stderr)
    sys.stderr.flush()
  if not _brief:
    note(text)


def say_before_next(text: str) -> None:
  """Shows a line once there is another one; not if the command fails at once.

  An error is then the only line.
  """
  _next.append(text)


def note(text: str) -> None:
  """Passes a line on to those that listen, without showing it.

  For what is shown in another way. Safe in a signal handler.
  """
  if not _listeners:
    _before.append(text)
  for listener in tuple(_listeners):
    listener(text)


def mute(is_mute: bool = True) -> None:
  """Shows nothing in this process any more, one of several of a run."""
  global _muted
  _muted = is_mute


@contextlib.contextmanager
def briefly(what: str) -> Iterator[None]:
  """Shows of all that is said only a line every few seconds, after `what`.

  For commands that do the same many times. Listeners still get all of it.
  """
  _brief.append(what)
  try:
    yield
  finally:
    _brief.pop()


def is_brief() -> bool:
  """Returns True inside `briefly`."""
  return bool(_brief)


@contextlib.contextmanager
def listening(listener: Listener) -> Iterator[None]:
  """Calls a function with all that is said, and what was said just before.

  Args:
    listener: Must neither wait nor take a lock: lines may come from a signal
      handler.
  """
  earlier = list(_before)
  _before.clear()
  for text in earlier:
    listener(text)
  _listeners.append(listener)
  try:
    yield
  finally:
    _listeners.remove(listener)


class Activity:
  """Something that takes a while, and how much of it is done.

  Args:
    what: Its name in a few words, such as "reading labels".
    total: Number of its parts; 0 if unknown.
    unit: What is counted, in the plural.
    clock: Returns the time in seconds.
  """

  def __init__(
    self,
    what: str,
    total: int = 0,
    unit: str = "",
    clock: Callable[[], float] = time.monotonic,
  ):
    self._what, self._total, self._unit = what, total, unit
    self._clock, self._done = clock, 0
    self._started = clock()
    self._lock = threading.Lock()

  def add(self, number: int = 1) -> None:
    """Counts finished parts; threads may call it."""
    with self._lock:
      self._done += number

  def counting(self, blocks: Iterable[_T]) -> Iterator[_T]:
    """Yields blocks of parts, and counts those that have been used."""
    for block in blocks:
      yield block
      self.add(len(block))

  def show(self) -> None:
    """Called when nothing has been shown for a while."""
    say(self.text())

  def text(self) -> str:
    """Returns one line: what is done, how fast, and the time left."""
    secs = self._clock() - self._started
    if not self._total:
      return f"{self._what} ... {_duration(secs)}"
    done = min(self._done, self._total)
    line = f"{self._what}: {done:,} of {self._total:,} {self._unit}".rstrip()
    if not done or secs <= 0:
      return f"{line}, {_duration(secs)} so far"
    speed = done / secs
    # A pace such as 0.4 images/s says less than the time that is left.
    pace = f", {speed:,.0f} {self._unit}/s" if self._unit and speed >= 2 else ""
    return f"{line}{pace}, {_duration((self._total - done) / speed)} left"

  def start(self) -> None:
    """Begins to show it whenever nothing else was shown for a while."""
    _ticker.add(self)

  def stop(self) -> None:
    """Ends what `start` began."""
    _ticker.remove(self)


@contextlib.contextmanager
def activity(what: str, total: int = 0, unit: str = "") -> Iterator[Activity]:
  """Shows what is being done, every few seconds until it is over.

  The innermost of several is shown, and nothing of one that is over soon.

  Args:
    what: Its name in a few words.
    total: Number of its parts, to be counted with `Activity.add`; 0 if unknown.
    unit: What is counted, in the plural.
  """
  doing = Activity(what, total, unit)
  doing.start()
  try:
    yield doing
  finally:
    doing.stop()


def _duration(secs: float) -> str:
  """Returns a time such as `8 s`, `03:20` or `2:15:00`."""
  return (
    f"{secs:.0f} s" if secs < 60 else tqdm.tqdm.format_interval(round(secs))
  )


def duration(secs: float) -> str:
  """Returns a time as people read it: `8 s`, `03:20`, `2:15:00`, `3.5 days`."""
  return f"{secs / 86400:.1f} days" if secs >= 172_800 else _duration(secs)


class _Ticker:
  """A thread that shows the innermost activity after some time of silence.

  It runs only while there is one, so that a command that is idle has no thread.
  """

  def __init__(self):
    self._activities: list[Activity] = []
    self._changed = threading.Condition()
    self._thread: threading.Thread | None = None
    self.quiet_since = self._imported = self._idle_since = time.monotonic()

  def add(self, doing: Activity) -> None:
    with self._changed:
      now = time.monotonic()
      young = now - self._imported < _YOUNG_SECS
      paused = now - self._idle_since > _PAUSE_SECS
      if not self._activities and paused and not young:
        self.quiet_since = now
      self._activities.append(doing)
      if self._thread is None:
        self._thread = threading.Thread(
          target=self._run, name="progress", daemon=True
        )
        self._thread.start()

  def remove(self, doing: Activity) -> None:
    ended = None
    with self._changed:
      # Not always the last: a generator may end later than what it was in.
      if doing in self._activities:
        self._activities.remove(doing)
      if not self._activities:
        self._idle_since = time.monotonic()
        ended, self._thread = self._thread, None
        self._changed.notify_all()
    if ended is not None:
      ended.join()

  def _run(self) -> None:
    while True:
      with self._changed:
        if self._thread is threading.current_thread():
          self._changed.wait(min(_CHECK_SECS, EVERY_SECS / 2))
        if self._thread is not threading.current_thread():
          return
        shown = self._activities[-1]
      if time.monotonic() - self.quiet_since >= EVERY_SECS:
        shown.show()


_ticker = _Ticker()
