"""Reports a stalled run: which host is behind, and all threads' stacks."""

import faulthandler
import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from etils import epath

from bit_jax import progress
from bit_jax.storage import files

_CHECKS_PER_LIMIT = 10


class Watchdog:
  """A thread that prints all stacks if no step finishes for some minutes.

  With several hosts, each writes its step to a file in a shared folder. A host
  without progress names the hosts that are furthest behind.
  """

  def __init__(
    self,
    minutes: float,
    *,
    host: int = 0,
    num_hosts: int = 1,
    folder: epath.PathLike = "",
    clock: Callable[[], float] = time.monotonic,
  ):
    """Starts to measure the time without progress.

    Args:
      minutes: Minutes without progress before a report, and between reports; 0
        for no reports.
      host: Index of this host.
      num_hosts: Number of hosts.
      folder: Folder that all hosts share; needed with more than one host.
      clock: Returns the time in seconds.
    """
    self._limit_secs = 60.0 * minutes
    self._host, self._num_hosts = host, num_hosts
    self._folder = epath.Path(folder)
    self._clock = clock
    self._step = -1
    self._since = clock()
    self._done = threading.Event()
    self._thread = threading.Thread(target=self._watch, daemon=True)

  def __enter__(self) -> "Watchdog":
    if self._limit_secs:
      self._thread.start()
    return self

  def __exit__(self, *_: Any) -> None:
    self._done.set()

  def progress(self, step: int) -> None:
    """Records that a step, or other work that takes long, has finished.

    Args:
      step: The number of the last finished step.
    """
    self._step, self._since = step, self._clock()

  def check(self) -> str:
    """Returns a report if the time limit has passed, else ''."""
    if self._num_hosts > 1:
      self._publish()
    silent_secs = self._clock() - self._since
    if silent_secs < self._limit_secs:
      return ""
    self._since = self._clock()
    where = f"after step {self._step}" if self._step >= 0 else "at the start"
    text = (
      f"host {self._host}: nothing has finished for {silent_secs / 60:.1f} "
      f"minutes, {where}"
    )
    return text + (self._late_hosts() if self._num_hosts > 1 else "")

  def _watch(self) -> None:
    while not self._done.wait(self._limit_secs / _CHECKS_PER_LIMIT):
      report = self.check()
      if report:
        # Of every host, also of those that are mute otherwise.
        print(f"watchdog: {report}; stacks:", file=sys.stderr, flush=True)
        progress.note(f"watchdog: {report}")
        faulthandler.dump_traceback(file=sys.stderr)

  def _publish(self) -> None:
    """Writes this host's step to its file in the shared folder."""
    try:
      self._folder.mkdir(parents=True, exist_ok=True)
      files.write_text(
        self._folder / f"host-{self._host}.json", json.dumps(self._step)
      )
    except OSError as e:
      print(f"watchdog: {e}", file=sys.stderr)

  def _late_hosts(self) -> str:
    """Returns the part of a report that names the hosts behind the others."""
    steps = {}
    for host in range(self._num_hosts):
      try:
        steps[host] = int((self._folder / f"host-{host}.json").read_text())
      # A host without a readable file counts as one that has not started.
      except (OSError, ValueError):
        steps[host] = -1
    last = min(steps.values())
    late = [str(host) for host, step in steps.items() if step == last]
    if last == max(steps.values()):
      return f"; all {self._num_hosts} hosts are at the same step"
    return (
      f"; late: host {', '.join(late)} at step {last}, the first is at "
      f"{max(steps.values())}"
    )
