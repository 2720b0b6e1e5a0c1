"""Handles signals that ask a run to finish its step, save and exit."""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bit_jax import progress
from bit_jax.parallel import sharding

# SIGTERM is sent by clouds and clusters before they take a machine away, SIGINT
# by Ctrl-C, SIGUSR1 by Slurm with `--signal=USR1@120`.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopRequest:
  """A context that records the first signal; a second ends the process.

  Attributes:
    received: Name of the first signal; '' before there is one.
  """

  def __init__(self):
    self.received = ""
    self._previous: dict[int, Any] = {}

  def __enter__(self) -> "StopRequest":
    # Python allows signal handlers in the main thread only.
    if threading.current_thread() is threading.main_thread():
      for number in SIGNALS:
        self._previous[number] = signal.signal(number, self._handle)
    return self

  def __exit__(self, *_: Any) -> None:
    for number, handler in self._previous.items():
      signal.signal(number, handler)

  def _handle(self, number: int, frame: FrameType | None) -> None:
    del frame
    # Whoever sends a second signal does not want to wait for any clean-up.
    if self.received:
      os._exit(128 + number)
    self.received = signal.Signals(number).name
    # print() could wait forever: the handler may interrupt another print() that
    # holds the stream's lock.
    text = (
      f"{self.received}: finishing the step and saving; a second signal stops "
      f"at once"
    )
    os.write(2, f"{text}\n".encode())
    progress.note(text)


def make_stop_flag(mesh: Mesh) -> Callable[[bool], Any]:
  """Returns a function that computes whether any host was asked to stop.

  Its argument is this host's flag. All hosts must call it equally often. With
  one host, it returns the flag. With several, it returns a bool scalar on the
  devices, the same on all hosts, which is computed asynchronously: the host can
  continue and read it later, when it is ready.

  Args:
    mesh: The mesh, from `sharding.make_mesh`.
  """
  if jax.process_count() == 1:
    return lambda flag: flag
  any_of = jax.jit(jnp.any, out_shardings=sharding.replicated(mesh))
  local_rows = len(mesh.local_devices)

  def any_host(flag: bool) -> jax.Array:
    return any_of(sharding.to_global(np.full(local_rows, flag), mesh))

  return any_host
