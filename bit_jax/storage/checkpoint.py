"""Saves and restores train states; the only file that imports Orbax.

A checkpoint is the folder `DIRECTORY/STEP/`. It holds the state and, as custom
metadata, a JSON object that describes it (config, class names, preprocessing,
data) and has a digest of each array. The digests are compared after restoring,
because Orbax itself restores flipped bits without an error.
"""

import contextlib
import itertools
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from etils import epath
from orbax.checkpoint import v1 as ocp

from bit_jax.errors import InputError, one_line
from bit_jax.parallel import hosts
from bit_jax.storage import digest, remote

_OUT_OF_MEMORY = (MemoryError, jax.errors.JaxRuntimeError)
_POLICIES: Any = ocp.training.preservation_policies
_DIGESTS = "digests"  # The key that we add to the metadata.


class DamagedError(InputError):
  """A checkpoint that exists but cannot be restored as it was saved."""


class Saved(NamedTuple):
  """Description of a checkpoint, saved with it.

  Attributes:
    metadata: The JSON object that was passed to `Checkpointer.save`.
    digests: Digest of each array by its path; {} in other programs' files.
    fields: Names at the top of the saved tree, such as `params`.
  """

  metadata: dict[str, Any]
  digests: dict[str, int]
  fields: frozenset[str]


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
    """
    self._directory = remote.absolute(directory)
    policies = [_POLICIES.LatestN(keep)]
    if keep_every_steps:
      policies.append(_POLICIES.EveryNSteps(keep_every_steps))
    self._last_save: Any = None
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
    except InputError:
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
    with self._writing():
      self._finish()
      # Without force, Orbax skips a save while another one is being written.
      with _saving_context():
        self._last_save = self._manager.save_async(
          step, state, custom_metadata=metadata, force=True
        )

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
    with self._writing():
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
      yield
    except _OUT_OF_MEMORY:
      raise
    except Exception as e:
      raise InputError(
        f"checkpoints cannot be written to {self._directory}: {_reason(e)}"
      ) from e


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
  """
  try:
    with _reading_context():
      info: Any = ocp.metadata(path)
  except Exception as e:
    raise _unreadable(path, e) from e
  if not info.custom_metadata:  # All our checkpoints have some.
    raise DamagedError(f"checkpoint {path} has lost its metadata")
  if info.metadata is None:  # Orbax logs the reason instead of raising.
    raise DamagedError(
      f"checkpoint {path} cannot be read: its list of arrays is damaged"
    )
  metadata = dict(info.custom_metadata)
  digests = metadata.pop(_DIGESTS, {})
  return Saved(metadata, digests, frozenset(info.metadata))


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
  """
  try:
    with _reading_context():
      return ocp.load(path, abstract_state)
  except _OUT_OF_MEMORY:
    raise
  except Exception as e:
    raise _unreadable(path, e) from e


def check(path: epath.Path, saved: Saved, state: Any) -> None:
  """Checks the bits of a restored state; all hosts must call it.

  Raises:
    DamagedError: Some bits differ from those saved; raised on every host.
  """
  _check_digests(path, saved.digests, digest.compute(state))


def set_aside(path: epath.Path) -> epath.Path:
  """Renames a damaged checkpoint, so that its step can be saved again.

  All hosts must call it, before a `Checkpointer` is opened.

  Returns:
    The new path.
  """
  names = (f"{path.name}.damaged{i or ''}" for i in itertools.count())
  aside = next(p for p in map(path.with_name, names) if not p.exists())
  hosts.wait_for_all("checkpoint found damaged")
  if jax.process_index() == 0:
    path.rename(aside)
  hosts.wait_for_all("checkpoint set aside")
  return aside


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


def steps(directory: epath.PathLike) -> list[int]:
  """Returns the steps of the checkpoints in a folder, the newest first.

  A checkpoint that was complete once and has lost parts since then is damaged,
  and is included: Orbax gives a folder such a name only once it is complete.
  """
  directory = epath.Path(directory)
  if not directory.is_dir():
    return []
  numbers = (int(p.name) for p in directory.iterdir() if p.name.isdigit())
  found = sorted(numbers, reverse=True)
  if not remote.is_remote(directory):
    return found
  # Object stores cannot rename; a file marks the complete ones there.
  return [step for step in found if _is_checkpoint(directory / str(step))]


def find(path: epath.PathLike) -> epath.Path | None:
  """Returns the newest checkpoint folder at a path, or None.

  Args:
    path: A checkpoint (`.../checkpoints/500`), a folder of checkpoints, or a
      work directory.
  """
  path = remote.absolute(path)
  if not path.is_dir():
    return None
  if _is_checkpoint(path):
    return path
  if (path / "checkpoints").is_dir():
    path = path / "checkpoints"
  folders = (path / str(step) for step in steps(path))
  return next(filter(_is_checkpoint, folders), None)


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
  try:
    with _reading_context():
      info: Any = ocp.metadata(path)
    # Restores on the host, independent of the devices it was saved from.
    host = jax.sharding.SingleDeviceSharding(
      jax.local_devices(backend="cpu")[0]
    )

    def wanted(name, tree):
      if parts and name not in parts:
        return jax.tree.map(lambda _: ocp.PLACEHOLDER, tree)
      return jax.tree.map(
        lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=host), tree
      )

    target = {k: wanted(k, v) for k, v in info.metadata.items()}
    with _reading_context():
      state = ocp.load(path, target)
  except _OUT_OF_MEMORY:
    raise
  except Exception as e:
    raise _unreadable(path, e) from e
  metadata = dict(info.custom_metadata or {})
  saved = metadata.pop(_DIGESTS, {})
  state = {k: v for k, v in state.items() if not parts or k in parts}
  digests = digest.compute(state)
  _check_digests(path, {k: saved[k] for k in saved if k in digests}, digests)
  return jax.tree.map(np.asarray, state), metadata


def _is_checkpoint(path: epath.Path) -> bool:
  # Orbax's own is_orbax_checkpoint is also true for a work directory.
  if remote.is_remote(path) and not (path / "commit_success.txt").is_file():
    return False
  return (path / "_CHECKPOINT_METADATA").is_file()


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


def _reason(error: Exception) -> str:
  """Returns an error message as one line, without the middle of a long one."""
  text = one_line(error).rstrip(".")  # The system's own message comes last.
  return text if len(text) < 250 else f"{text[:120]} ... {text[-120:]}"


def _is_file_missing(error: BaseException | None) -> bool:
  """Returns True if a missing file caused an Orbax or TensorStore error."""
  while error is not None:
    if isinstance(error, FileNotFoundError) or "NOT_FOUND" in str(error):
      return True
    error = error.__cause__ or error.__context__
  return False


def _unreadable(path: epath.Path, error: Exception) -> InputError:
  # A failing disk or network does not mean that the checkpoint is damaged.
  passing = isinstance(error, OSError) and not isinstance(
    error, FileNotFoundError | NotADirectoryError
  )
  kind = InputError if passing else DamagedError
  reason = "a file is missing" if _is_file_missing(error) else _reason(error)
  return kind(f"checkpoint {path} cannot be read: {reason}")
