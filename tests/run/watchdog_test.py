import re
import threading

from bit_jax.run.watchdog import Watchdog


class Clock:
  def __init__(self):
    self.secs = 0.0

  def __call__(self):
    return self.secs


def test_it_reports_a_lack_of_progress_and_again_after_each_limit():
  clock = Clock()
  watchdog = Watchdog(2, clock=clock)
  clock.secs = 119
  assert watchdog.check() == ""
  clock.secs = 121
  assert watchdog.check() == (
    "host 0: nothing has finished for 2.0 minutes, at the start"
  )
  assert watchdog.check() == ""
  watchdog.progress(7)
  clock.secs = 240
  assert watchdog.check() == ""
  clock.secs = 271
  assert "for 2.5 minutes, after step 7" in watchdog.check()


def test_the_late_host_is_named(tmp_path):
  clock = Clock()
  watchdogs = [
    Watchdog(1, host=i, num_hosts=3, folder=tmp_path / "hosts", clock=clock)
    for i in range(3)
  ]
  for watchdog, step in zip(watchdogs, (12, 11, 12), strict=True):
    watchdog.progress(step)
    assert watchdog.check() == ""
  clock.secs = 61
  assert (
    watchdogs[0]
    .check()
    .endswith("; late: host 1 at step 11, the first is at 12")
  )
  watchdogs[1].progress(12)
  assert watchdogs[1].check() == ""
  assert watchdogs[2].check().endswith("; all 3 hosts are at the same step")
  (tmp_path / "hosts" / "host-0.json").unlink()
  clock.secs = 200
  assert "late: host 0 at step -1" in watchdogs[1].check()


def test_stacks_of_all_threads_are_shown(capfd):
  reported = threading.Event()

  class OneReport(Watchdog):
    def check(self):
      text = super().check()
      if text:
        self._done.set()
        reported.set()
      return text

  clock = Clock()
  with OneReport(1e-3, clock=clock) as watchdog:
    clock.secs = 60.0
    assert reported.wait(timeout=60)
  watchdog._thread.join()
  shown = capfd.readouterr().err
  assert re.search(r"watchdog: host 0: nothing .*; stacks:", shown)
  assert "test_stacks_of_all_threads_are_shown" in shown


def test_zero_minutes_start_no_thread():
  with Watchdog(0) as watchdog:
    assert not watchdog._thread.is_alive()
