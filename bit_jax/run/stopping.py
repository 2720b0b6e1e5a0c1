"""Signals that ask a run to stop: finish the step, save, exit."""

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

from bit_jax.parallel import sharding

# Of clouds and clusters before they take a machine; Ctrl-C; Slurm's
# `--signal=USR1@120`.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopRequest:
  """While entered, remembers the first of SIGNALS; the second ends the process.

  Attributes:
    received: the name of the signal; '' before there is one.
  """

  def __init__(self):
    self.received = ""
    self._previous: dict[int, Any] = {}

  def __enter__(self) -> "StopRequest":
    # Python allows handlers in the main thread only.
    if threading.current_thread() is threading.main_thread():
      for number in SIGNALS:
        self._previous[number] = signal.signal(number, self._handle)
    return self

  def __exit__(self, *_: Any) -> None:
    for number, handler in self._previous.items():
      signal.signal(number, handler)

  def _handle(self, number: int, frame: FrameType | None) -> None:
    del frame
    if self.received:
      os._exit(128 + number)
    self.received = signal.Signals(number).name
    # Not print: a handler may interrupt one that holds the stream's lock.
    os.write(
      2,
      f"{self.received}: finishing the step and saving; a second signal stops "
      f"at once\n".encode(),
    )


def make_agreement(mesh: Mesh) -> Callable[[bool], Any]:
  """Builds a function from this host's flag to whether any host's is set.

  All hosts must call it equally often. With one host the result is the flag;
  with several it is a scalar on the devices, the same on all of them, that is
  computed while the host goes on: reading it later costs no waiting.
  """
  if jax.process_count() == 1:
    return lambda flag: flag
  any_of = jax.jit(jnp.any, out_shardings=sharding.replicated(mesh))
  local_rows = len(mesh.local_devices)

  def agree(flag: bool) -> jax.Array:
    return any_of(sharding.to_global(np.full(local_rows, flag), mesh))

  return agree
