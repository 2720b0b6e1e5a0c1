"""Saves and restores train states; the only file that imports Orbax.

A checkpoint is the folder `DIRECTORY/STEP/`. It holds the state and, as custom
metadata, a JSON object that describes it (config, class names, preprocessing,
data) and has a digest of each array. The digests are compared after restoring,
because Orbax itself restores flipped bits without an error.
"""

import contextlib
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from etils import epath
from orbax.checkpoint import v1 as ocp

from bit_jax import progress
from bit_jax.errors import (
  InputError,
  UnavailableError,
  failure,
  is_machine_fault,
)
from bit_jax.storage import digest, remote
from bit_jax.storage.checkpoint_errors import (
  DamagedError,
  logged_errors,
  reason_of,
  unreadable,
)
from bit_jax.storage.checkpoint_folders import find, set_aside, steps

# The folders are part of this module for all others.
__all__ = [
  "Checkpointer",
  "DamagedError",
  "Saved",
  "check",
  "find",
  "load_arrays",
  "load_shapes",
  "load_weights",
  "prepare",
  "read_saved",
  "restore",
  "set_aside",
  "silence_orbax",
  "steps",
]

_OUT_OF_MEMORY = (MemoryError, jax.errors.JaxRuntimeError)
_POLICIES: Any = ocp.training.preservation_policies
_DIGESTS = "digests"  # The key that we add to the metadata.


class Saved(NamedTuple):
  """Description of a checkpoint, saved with it.

  Attributes:
    metadata: The JSON object that was passed to `Checkpointer.save`.
    digests: Digest of each array by its path; {} in other programs' files.
    fields: Names at the top of the saved tree, such as `params`.
    shapes: Shape of each array by its path.
  """

  metadata: dict[str, Any]
  digests: dict[str, int]
  fields: frozenset[str]
  shapes: dict[str, tuple[int, ...]]


class Checkpointer:
  """Saves the states of a run in the background, and keeps the newest ones.

  A save is visible only once it is complete: Orbax writes to a temporary folder
  and renames it.
  """

  def __init__(
    self, directory: epath.PathLike, *, keep: int, keep_every_steps: int = 0
  ):
    """Opens a folder of checkpoints, which is made if it does not exist.

    Args:
      directory: The folder, e.g. WORKDIR/checkpoints.
      keep: Number of newest checkpoints to keep.
      keep_every_steps: If > 0, checkpoints at multiples of it are kept as well.

    Raises:
      InputError: The folder cannot be written to. Also raised by all methods.
      UnavailableError: Likewise, for a reason that may pass: a full disk.
    """
    self._directory = remote.absolute(directory)
    self._also = _Also()
    policies = [_POLICIES.LatestN(keep), self._also]
    if keep_every_steps:
      policies.append(_POLICIES.EveryNSteps(keep_every_steps))
    self._last_save: Any = None
    with self._writing():
      self._manager = ocp.training.Checkpointer(
        self._directory,
        preservation_policy=_POLICIES.AnyPreservationPolicy(policies),
        cleanup_tmp_directories=True,
      )

  def __enter__(self) -> "Checkpointer":
    return self

  def __exit__(self, exc_type: Any, *_: Any) -> None:
    try:
      self.close()
    except (InputError, UnavailableError):
      if exc_type is None:  # Otherwise the first error is to be shown.
        raise

  def save(self, step: int, state: Any, metadata: dict[str, Any]) -> None:
    """Starts saving: copies the arrays now and writes them in the background.

    Args:
      step: Number of finished updates; saving a step twice is an error.
      state: Tree of jax.Array.
      metadata: A JSON object, saved with the state.
    """
    metadata = {**metadata, _DIGESTS: digest.compute(state)}
    with self._writing(), progress.activity("saving the checkpoint"):
      self._finish()
      # Without force, Orbax skips a save while another one is being written.
      with _saving_context():
        self._last_save = self._manager.save_async(
          step, state, custom_metadata=metadata, force=True
        )

  def keep_also(self, step: int) -> None:
    """Keeps the checkpoint of a step, and no longer that of the last call.

    What is no longer kept is removed once the next save is complete.
    """
    self._also.step = step

  def _finish(self) -> None:
    """Waits for the last save, and closes its thread and event loop.

    Orbax waits for it before another one as well, but only its result closes
    them: three open files a save.
    """
    if self._last_save is not None:
      self._last_save.result()
      self._last_save = None

  def wait(self) -> None:
    """Waits until the last save is complete."""
    with self._writing(), progress.activity("saving the checkpoint"):
      self._manager.wait()
      self._finish()

  def close(self) -> None:
    """Waits until the last save is complete, and closes the folder."""
    with self._writing():
      try:
        self._finish()
      finally:
        self._manager.close()

  @contextlib.contextmanager
  def _writing(self) -> Iterator[None]:
    try:
      with remote.os_errors():
        yield
    except _OUT_OF_MEMORY:
      raise
    except Exception as e:
      raise failure(
        f"checkpoints cannot be written to {self._directory}: {reason_of(e)}", e
      ) from e


class _Also:
  """Preserves the checkpoint of one step, as a policy of Orbax.

  Attributes:
    step: The step; 0 for none.
  """

  step = 0

  def should_preserve(
    self, checkpoints: Sequence[Any], *, context: Any
  ) -> Sequence[bool]:
    del context
    return [info.step == self.step for info in checkpoints]


def prepare(abstract_state: Any) -> None:
  """Starts compiling the digests of saving and restoring, in another thread.

  Args:
    abstract_state: Tree of jax.ShapeDtypeStruct with shardings.
  """
  digest.compile_ahead(abstract_state)


def read_saved(path: epath.Path) -> Saved:
  """Reads the description of a checkpoint, but not its arrays.

  Raises:
    DamagedError: The description cannot be read.
    UnavailableError: It cannot be read at the moment.
  """
  info = _read_info(path)
  if not info.custom_metadata:  # All our checkpoints have some.
    raise DamagedError(f"checkpoint {path} has lost its metadata")
  metadata = dict(info.custom_metadata)
  digests = metadata.pop(_DIGESTS, {})
  shapes = (tuple(x.shape) for x in jax.tree.leaves(info.metadata))
  shapes = dict(zip(digest.names(info.metadata), shapes, strict=True))
  return Saved(metadata, digests, frozenset(info.metadata), shapes)


def _read_info(path: epath.Path) -> Any:
  """Returns Orbax's description of a checkpoint."""
  with logged_errors() as logged:
    try:
      with remote.os_errors(), _reading_context():
        info: Any = ocp.metadata(path)
    except Exception as e:
      raise unreadable(path, e) from e
  if info.metadata is not None:
    return info
  # Orbax logs the reason instead of raising it.
  for error in filter(is_machine_fault, logged):
    raise unreadable(path, error) from error
  raise DamagedError(
    f"checkpoint {path} cannot be read: its list of arrays is damaged"
  )


def restore(path: epath.Path, abstract_state: Any) -> Any:
  """Returns the state of a checkpoint; `check` verifies its bits.

  It does not wait for other hosts, because damage may be in a part that only
  one host reads.

  Args:
    path: A complete checkpoint.
    abstract_state: Tree of jax.ShapeDtypeStruct with the desired shardings,
      which may differ from those it was saved with.

  Raises:
    DamagedError: The checkpoint cannot be read, or has other arrays.
    UnavailableError: It cannot be read at the moment.
  """
  try:
    with remote.os_errors(), _reading_context():
      return ocp.load(path, abstract_state)
  except _OUT_OF_MEMORY:
    raise
  except Exception as e:
    raise unreadable(path, e) from e


def check(path: epath.Path, saved: Saved, state: Any) -> None:
  """Checks the bits of a restored state; all hosts must call it.

  Raises:
    DamagedError: Some bits differ from those saved; raised on every host.
  """
  _check_digests(path, saved.digests, digest.compute(state))


def _saving_context() -> Any:
  """Returns the Orbax context for saving."""
  context: Any = ocp.Context()
  # By default each device writes a part of each array that it shares with
  # others. Cutting the parts out is compiled for every shape and device, and
  # the loop stands still for seconds. Only several hosts gain by sharing work.
  context.array.saving.use_replica_parallel = jax.process_count() > 1
  return context


def _reading_context() -> Any:
  """Returns the Orbax context for reading on each host independently."""
  host = jax.process_index()
  context: Any = ocp.Context()
  # By default Orbax waits five minutes for hosts that have failed.
  context.multiprocessing.primary_host = host
  context.multiprocessing.active_processes = {host}
  context.multiprocessing.barrier_sync_key_prefix = f"host_{host}"
  return context


def silence_orbax() -> None:
  """Hides all log messages of Orbax, and others below the level of warnings.

  Orbax logs every action, and a traceback of each exception that it raises. All
  that matters reaches the caller as an exception.
  """
  logging.set_verbosity(logging.WARNING)
  logging.get_absl_logger().addFilter(
    lambda record: "orbax" not in record.pathname
  )


def load_weights(
  path: epath.Path,
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
  """Reads the weights of a checkpoint, without its optimiser state.

  Args:
    path: A checkpoint folder, as `find` returns it.

  Returns:
    (params, batch_stats, metadata): nested dicts of np.ndarray, and the JSON
    object saved with them.

  Raises:
    DamagedError: The checkpoint cannot be read, or has other bits than it was
      saved with.
  """
  state, metadata = _load_on_host(path, ("params", "batch_stats", "carried"))
  # Checkpoints up to commit 3d9ff30 have the statistics at the top.
  carried = state.get("carried") or state
  return state["params"], carried.get("batch_stats") or {}, metadata


def load_shapes(
  path: epath.Path,
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
  """Returns what `load_weights` does with jax.ShapeDtypeStruct for arrays.

  Raises:
    DamagedError: The description of the checkpoint cannot be read.
  """
  info = _read_info(path)
  state = jax.tree.map(
    lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype), info.metadata
  )
  metadata = dict(info.custom_metadata or {})
  metadata.pop(_DIGESTS, None)
  carried = state.get("carried") or state
  return state["params"], carried.get("batch_stats") or {}, metadata


def load_arrays(path: epath.Path) -> dict[str, np.ndarray]:
  """Reads all arrays of a checkpoint, by path such as `params/head/bias`.

  Raises:
    DamagedError: The checkpoint cannot be read, or has other bits than it was
      saved with.
  """
  state, _ = _load_on_host(path)
  return dict(zip(digest.names(state), jax.tree.leaves(state), strict=True))


def _load_on_host(
  path: epath.Path, parts: Collection[str] = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns parts (or all) of a state as np.ndarray, and the metadata."""
  with progress.activity(f"reading {path}"):
    return _read_on_host(path, parts)


def _read_on_host(
  path: epath.Path, parts: Collection[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
  info = _read_info(path)
  # Restores on the host, independent of the devices it was saved from.
  host = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])

  def wanted(name, tree):
    if parts and name not in parts:
      return jax.tree.map(lambda _: ocp.PLACEHOLDER, tree)
    return jax.tree.map(
      lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=host), tree
    )

  try:
    target = {k: wanted(k, v) for k, v in info.metadata.items()}
    with remote.os_errors(), _reading_context():
      state = ocp.load(path, target)
  except _OUT_OF_MEMORY:
    raise
  except Exception as e:
    raise unreadable(path, e) from e
  metadata = dict(info.custom_metadata or {})
  saved = metadata.pop(_DIGESTS, {})
  state = {k: v for k, v in state.items() if not parts or k in parts}
  digests = digest.compute(state)
  _check_digests(path, {k: saved[k] for k in saved if k in digests}, digests)
  return jax.tree.map(np.asarray, state), metadata


def _check_digests(
  path: epath.Path, saved: dict[str, int], found: dict[str, int]
) -> None:
  """Raises DamagedError if an array has other bits than were saved."""
  # Checkpoints of other programs have no digests.
  bad = [name for name in found if saved and saved.get(name) != found[name]]
  if bad:
    more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
    raise DamagedError(
      f"checkpoint {path} is damaged: the bits of {bad[0]}{more} are not those "
      f"that were saved"
    )
