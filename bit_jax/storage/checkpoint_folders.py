"""The folders of checkpoints: which there are, and renaming damaged ones."""

import itertools

import jax
from etils import epath

from bit_jax.errors import failure, one_line
from bit_jax.parallel import hosts
from bit_jax.storage import remote


def steps(directory: epath.PathLike) -> list[int]:
  """Returns the steps of the checkpoints in a folder, the newest first.

  A checkpoint that was complete once and has lost parts since then is damaged,
  and is included: Orbax gives a folder such a name only once it is complete.

  Raises:
    InputError: The folder cannot be read.
    UnavailableError: It cannot be read at the moment. That is not the same as
      an empty one, in which a run would start from its beginning.
  """
  directory = epath.Path(directory)
  if not remote.exists(directory):
    return []
  try:
    with remote.os_errors():
      names = [p.name for p in directory.iterdir()]
  except NotADirectoryError:
    return []
  except OSError as e:
    raise failure(f"{directory} cannot be read: {one_line(e)}", e) from e
  found = sorted((int(name) for name in names if name.isdigit()), reverse=True)
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
  if remote.exists(path / "checkpoints"):
    path = path / "checkpoints"
  folders = (path / str(step) for step in steps(path))
  return next(filter(_is_checkpoint, folders), None)


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


def _is_checkpoint(path: epath.Path) -> bool:
  # Orbax's own is_orbax_checkpoint is also true for a work directory.
  if remote.is_remote(path) and not remote.exists(path / "commit_success.txt"):
    return False
  return remote.exists(path / "_CHECKPOINT_METADATA")
