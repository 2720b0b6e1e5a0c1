"""Several processes: how they find each other and check that they agree."""

import hashlib
import os
import pathlib
import uuid
from collections.abc import Mapping

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from bit_jax.errors import InputError, UsageError
from bit_jax.recipe import Config

_DIGEST_BYTES = 16


def _is_cluster(environ: Mapping[str, str]) -> bool:
  """Tells whether this process is one of several that a launcher started."""
  sizes = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
  if any(int(environ.get(key) or 1) > 1 for key in sizes):
    # A plain shell inside `salloc` has the first, but is no task of a step.
    return "SLURM_PROCID" in environ or "SLURM_NTASKS" not in environ
  workers = environ.get("TPU_WORKER_HOSTNAMES", "")
  return "," in workers or "MEGASCALE_COORDINATOR_ADDRESS" in environ


def start(
  coordinator_address: str, num_processes: int, process_id: int
) -> None:
  """Joins the other processes; returns at once where there are none.

  To be called before anything else uses JAX.

  Args:
    coordinator_address: HOST:PORT of process 0; '' to go by what Slurm, Open
      MPI or a TPU pod say of themselves.
    num_processes: with an address: how many there are.
    process_id: with an address: which one this is, from 0.

  Raises:
    UsageError: the three do not go together.
    InputError: the others cannot be reached.
  """
  if not coordinator_address:
    if num_processes > 0 or process_id >= 0:
      raise UsageError(
        "--num_processes and --process_id need --coordinator_address"
      )
    if not _is_cluster(os.environ):
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
    jax.distributed.initialize(**arguments)
  except (RuntimeError, ValueError) as e:
    raise InputError(f"the other processes cannot be reached: {e}") from e


def _digest(text: str) -> np.ndarray:
  digest = hashlib.sha256(text.encode()).digest()[:_DIGEST_BYTES]
  return np.frombuffer(digest, np.uint8)


def _source_code() -> str:
  """Returns all source code of the package."""
  folder = pathlib.Path(__file__).parent
  return "".join(p.read_text() for p in sorted(folder.rglob("*.py")))


def check_agreement(workdir: epath.Path, config: Config) -> None:
  """Checks that all hosts run the same thing into the same work directory.

  All hosts must call it; with one there is nothing to check.

  Args:
    workdir: exists and can be written to by host 0.
    config: resolved: number of examples, classes and steps are part of it.

  Raises:
    InputError: on every host; the message names those that differ from host 0.
  """
  if jax.process_count() == 1:
    return
  checks = {
    "config or data": config.to_json(),
    "code": _source_code(),
    "version of JAX": jax.__version__,
  }
  for what, text in checks.items():
    _require_same(what, _digest(text))
  token = np.frombuffer(uuid.uuid4().bytes, np.uint8)
  token = np.asarray(multihost_utils.broadcast_one_to_all(token))
  probe = workdir / f"probe-{bytes(token[:4]).hex()}"
  if jax.process_index() == 0:
    probe.write_text(bytes(token).hex())
  multihost_utils.sync_global_devices("probe written")
  try:
    seen = probe.read_text() == bytes(token).hex()
  except OSError:
    seen = False
  all_seen = np.asarray(multihost_utils.process_allgather(np.array([seen])))
  if jax.process_index() == 0:
    probe.unlink()
  blind = np.flatnonzero(~all_seen.ravel())
  if blind.size:
    raise InputError(
      f"--workdir={workdir}: host {', '.join(map(str, blind))} does not see "
      f"what host 0 writes there; expected a folder that all hosts share, e.g. "
      f"gs://BUCKET/RUN"
    )


def _require_same(what: str, digest: np.ndarray) -> None:
  everyone = np.asarray(multihost_utils.process_allgather(digest))
  everyone = everyone.reshape(jax.process_count(), -1)
  others = np.flatnonzero((everyone != everyone[0]).any(axis=1))
  if others.size:
    raise InputError(
      f"host {', '.join(map(str, others))} has another {what} than host 0"
    )
