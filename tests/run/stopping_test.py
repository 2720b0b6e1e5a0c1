import signal
import subprocess
import sys
import threading

import pytest

from bit_jax.run import stopping

PROGRAM = """
import signal, sys
from bit_jax.run import stopping
with stopping.StopRequest():
  print("ready", flush=True)
  while True:
    signal.pause()
"""


@pytest.mark.parametrize("number", stopping.SIGNALS)
def test_the_second_signal_ends_the_process_at_once(number):
  with subprocess.Popen(
    [sys.executable, "-c", PROGRAM],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  ) as process:
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    line = process.stderr.readline()
    assert line.startswith(f"{signal.Signals(number).name}: finishing the step")
    assert process.poll() is None
    process.send_signal(number)
    assert process.wait(timeout=60) == 128 + number


def test_previous_handlers_are_restored():
  before = [signal.getsignal(number) for number in stopping.SIGNALS]
  with stopping.StopRequest() as stop:
    signal.raise_signal(signal.SIGUSR1)
    assert stop.received == "SIGUSR1"
  assert [signal.getsignal(number) for number in stopping.SIGNALS] == before


def test_other_threads_install_nothing():
  seen = []

  def work():
    with stopping.StopRequest() as stop:
      seen.append((signal.getsignal(signal.SIGTERM), stop.received))

  before = signal.getsignal(signal.SIGTERM)
  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert seen == [(before, "")]


def test_one_host_gets_its_own_flag(mesh):
  any_host = stopping.make_stop_flag(mesh)
  assert any_host(True) is True
  assert any_host(False) is False
