"""Starts runs of several processes and checks that all run the same thing."""

import glob
import hashlib
import importlib.util
import os
import pathlib
import uuid
from collections.abc import Mapping

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from bit_jax import progress
from bit_jax.errors import InputError, UnavailableError, UsageError

_DIGEST_BYTES = 16
_PACKAGE = pathlib.Path(__file__).parents[1]


def _is_cluster(environ: Mapping[str, str], *, has_tpu: bool) -> bool:
  """Returns True if JAX can find the other processes by itself.

  It can if a launcher has started several processes and set the environment
  variables that `jax.distributed` reads.
  """

  def size(key):
    return int(environ.get(key) or 1)

  # A batch script and a shell inside `salloc` belong to a job too, but are not
  # tasks of a job step.
  if size("SLURM_NTASKS") > 1 and "SLURM_STEP_NODELIST" in environ:
    return "SLURM_PROCID" in environ
  if size("OMPI_COMM_WORLD_SIZE") > 1 and "OMPI_MCA_orte_hnp_uri" in environ:
    return True
  workers = environ.get("TPU_WORKER_HOSTNAMES", "")
  if "," in workers or "MEGASCALE_COORDINATOR_ADDRESS" in environ:
    return True
  # A TPU VM has no such variables: JAX asks the cloud's metadata server.
  return has_tpu and importlib.util.find_spec("libtpu") is not None


def _has_tpu() -> bool:
  """Returns True if TPU chips are attached, without JAX, which claims them."""
  return bool(glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*"))


def start(
  coordinator_address: str, num_processes: int, process_id: int
) -> None:
  """Connects to the other processes; returns at once if there are none.

  To be called before anything else uses JAX.

  Args:
    coordinator_address: HOST:PORT of process 0; '' to use the environment
      variables of Slurm, Open MPI or a TPU pod.
    num_processes: Number of processes, if there is an address.
    process_id: Index of this process from 0, if there is an address.

  Raises:
    UsageError: The arguments contradict each other.
    UnavailableError: The other processes cannot be reached.
  """
  if not coordinator_address:
    if num_processes > 0 or process_id >= 0:
      raise UsageError(
        "--num_processes and --process_id need --coordinator_address"
      )
    if not _is_cluster(os.environ, has_tpu=_has_tpu()):
      return
    arguments = {}
  else:
    if not 0 <= process_id < num_processes:
      raise UsageError(
        f"--process_id={process_id}: expected 0 to --num_processes - 1, with "
        f"--num_processes={num_processes}"
      )
    arguments = {
      "coordinator_address": coordinator_address,
      "num_processes": num_processes,
      "process_id": process_id,
    }
  try:
    with progress.activity("waiting for the other processes"):
      jax.distributed.initialize(**arguments)
  except (RuntimeError, ValueError) as e:
    raise UnavailableError(
      f"the other processes cannot be reached: {e}; --coordinator_address, "
      f"--num_processes and --process_id say where they are"
    ) from e
  # One of them speaks.
  progress.mute(jax.process_index() != 0)


def _digest(text: str) -> np.ndarray:
  digest = hashlib.sha256(text.encode()).digest()[:_DIGEST_BYTES]
  return np.frombuffer(digest, np.uint8)


def source_code() -> str:
  """Returns all source code of the package."""
  return "".join(p.read_text() for p in sorted(_PACKAGE.rglob("*.py")))


def wait_for_all(name: str) -> None:
  """Waits until all hosts have called it; returns at once with one host."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def from_lead(values: np.ndarray) -> np.ndarray:
  """Returns host 0's array on all hosts; all must pass the same shape."""
  if jax.process_count() == 1:
    return values
  return np.asarray(multihost_utils.broadcast_one_to_all(values))


def from_all(value: bool) -> np.ndarray:
  """Returns the values of all hosts, bool[hosts]."""
  if jax.process_count() == 1:
    return np.array([value])
  gathered = multihost_utils.process_allgather(np.array([value]))
  return np.asarray(gathered).reshape(-1)


def number_of_lead(value: int) -> int:
  """Returns a number as host 0 has it; all hosts must call it."""
  return int(from_lead(np.array([value], np.int32))[0])


def check_same(config_text: str) -> None:
  """Checks that all hosts have the same config, data, code and JAX version.

  All hosts must call it.

  Args:
    config_text: The part of the resolved config that affects the results, which
      includes the numbers of examples, classes and steps.

  Raises:
    InputError: A host differs from host 0. Raised on all hosts; the message
      names those that differ.
  """
  if jax.process_count() == 1:
    return
  checks = {
    "config or data": config_text,
    "code": source_code(),
    "version of JAX": jax.__version__,
  }
  for what, text in checks.items():
    with progress.activity("waiting for the other hosts"):
      everyone = np.asarray(multihost_utils.process_allgather(_digest(text)))
    everyone = everyone.reshape(jax.process_count(), -1)
    others = np.flatnonzero((everyone != everyone[0]).any(axis=1))
    if others.size:
      raise InputError(
        f"host {', '.join(map(str, others))} has another {what} than host 0"
      )


def check_workdir(workdir: epath.Path) -> None:
  """Checks that all hosts share the work directory; all must call it.

  Args:
    workdir: The work directory; it must exist, and host 0 must be able to write
      to it.

  Raises:
    InputError: A host does not see what host 0 writes. Raised on all hosts; the
      message names those that do not.
  """
  if jax.process_count() == 1:
    return
  # A random token: a file left by an earlier run cannot be mistaken for it.
  token = from_lead(np.frombuffer(uuid.uuid4().bytes, np.uint8))
  probe = workdir / f"probe-{bytes(token[:4]).hex()}"
  if jax.process_index() == 0:
    probe.write_text(bytes(token).hex())
  wait_for_all("probe written")
  try:
    seen = probe.read_text() == bytes(token).hex()
  except OSError:
    seen = False
  blind = np.flatnonzero(~from_all(seen))
  if jax.process_index() == 0:
    probe.unlink()
  if blind.size:
    raise InputError(
      f"--workdir={workdir}: host {', '.join(map(str, blind))} does not see "
      f"what host 0 writes there; expected a folder that all hosts share, e.g. "
      f"gs://BUCKET/RUN"
    )
