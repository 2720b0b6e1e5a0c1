import re
import threading

from bit_jax.run import watchdog


class Clock:
  def __init__(self):
    self.secs = 0.0

  def __call__(self):
    return self.secs


def test_it_speaks_when_nothing_has_finished_and_again_each_time():
  clock = Clock()
  dog = watchdog.Watchdog(2, clock=clock)
  clock.secs = 119
  assert dog.check() == ""
  clock.secs = 121
  assert dog.check() == (
    "host 0: nothing has finished for 2.0 minutes, at the start"
  )
  assert dog.check() == ""
  dog.progress(7)
  clock.secs = 240
  assert dog.check() == ""
  clock.secs = 271
  assert "for 2.5 minutes, after step 7" in dog.check()


def test_the_late_host_is_named(tmp_path):
  clock = Clock()
  dogs = [
    watchdog.Watchdog(
      1, host=i, num_hosts=3, folder=tmp_path / "hosts", clock=clock
    )
    for i in range(3)
  ]
  for dog, step in zip(dogs, (12, 11, 12), strict=True):
    dog.progress(step)
    assert dog.check() == ""
  clock.secs = 61
  assert (
    dogs[0].check().endswith("; late: host 1 at step 11, the first is at 12")
  )
  dogs[1].progress(12)
  assert dogs[1].check() == ""
  assert dogs[2].check().endswith("; all 3 hosts are at the same step")
  (tmp_path / "hosts" / "host-0.json").unlink()
  clock.secs = 200
  assert "late: host 0 at step -1" in dogs[1].check()


def test_stacks_of_all_threads_are_shown(capfd):
  spoken = threading.Event()

  class Impatient(watchdog.Watchdog):
    def check(self):
      text = super().check()
      if text:
        self._done.set()
        spoken.set()
      return text

  clock = Clock()
  with Impatient(1e-3, clock=clock) as dog:
    clock.secs = 60.0
    assert spoken.wait(timeout=60)
  dog._thread.join()
  shown = capfd.readouterr().err
  assert re.search(r"watchdog: host 0: nothing .*; stacks:", shown)
  assert "test_stacks_of_all_threads_are_shown" in shown


def test_zero_minutes_start_no_thread():
  with watchdog.Watchdog(0) as dog:
    assert not dog._thread.is_alive()
