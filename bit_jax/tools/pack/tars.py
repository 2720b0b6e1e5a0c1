"""Finds the images in a tar file, and checks that the tar is whole.

Python's tarfile takes a damaged header, or the lack of any, for the end of the
file. Here a tar must end as its format says, in blocks of zeros.
"""

import os
import posixpath
import tarfile

from bit_jax.data.sets import image_files
from bit_jax.errors import InputError, one_line
from bit_jax.storage import contents

_BLOCK = tarfile.BLOCKSIZE
_CHUNK = 1 << 20
# A link that leads to a link, and so on.
_MAX_LINKS = 40


def find(path: str) -> tuple[dict[str, tuple[int, int]], list[str]]:
  """Finds the images in an uncompressed tar.

  A link to another member of the tar stands for that member's content. Of two
  members with one name the last one counts, as in unpacking.

  Args:
    path: The tar file.

  Returns:
    (images, others): {name: (offset, size)} of the images, and the names of
    other files that no system leaves behind.

  Raises:
    InputError: The file is no uncompressed tar or damaged, or an image in it is
      neither a file nor a link to one; the message names the place.
  """
  offset = 0
  try:
    with tarfile.open(path, "r:") as tar:
      try:
        members = tar.getmembers()
      finally:
        offset = tar.offset
      _check_end(path, tar, members[-1].name if members else "")
  except (tarfile.TarError, OSError) as e:
    raise InputError(
      f"{path}: cannot be read as an uncompressed tar "
      f"({_reason(path, e, offset)})"
    ) from e
  by_name = {os.path.normpath(member.name): member for member in members}
  found, others = {}, []
  for name, member in by_name.items():
    if image_files.is_image(name) and not member.isdir():
      member = _resolve(path, name, by_name)
      found[name] = (member.offset_data, member.size)
    elif member.isfile() and not image_files.is_hidden_path(name):
      others.append(name)
  return found, others


def _reason(path: str, error: Exception, offset: int) -> str:
  """Returns what is wrong with a file that cannot be read to its end."""
  if isinstance(error, OSError):
    return one_line(error)
  kind = contents.describe(path)
  if kind not in ("", contents.TAR):
    return f"it is {kind}"
  return one_line(error) + (f" at byte {offset:,}" if offset else "")


def _check_end(path: str, tar: tarfile.TarFile, last: str) -> None:
  """Raises InputError unless only zeros follow the last member."""
  after = f"after {last!r}" if last else "at its start"
  with open(path, "rb") as file:
    file.seek(tar.offset)
    rest = file.read(_CHUNK)
    place = f"{path}: at byte {tar.offset:,}, {after},"
    if len(rest) < _BLOCK:
      raise InputError(
        f"{place} the tar ends without its end mark, so that images may be "
        "missing; copy or make it again"
      )
    if any(rest[:_BLOCK]):
      raise InputError(
        f"{place} the header of the next member is damaged; copy or make the "
        "tar again"
      )
    done = tar.offset
    while rest:
      if any(rest):
        raise InputError(
          f"{path}: there is more after its end mark at byte {tar.offset:,}, "
          f"{after}, as if two tars were joined; make one tar of them"
        )
      done += len(rest)
      rest = file.read(_CHUNK)


def _resolve(
  path: str, name: str, by_name: dict[str, tarfile.TarInfo]
) -> tarfile.TarInfo:
  """Returns the file that an image's name stands for, through links."""
  member, at = by_name[name], name
  for _ in range(_MAX_LINKS):
    if member.issparse():
      problem = "stored as a sparse file"
    elif member.isfile():
      return member
    elif member.islnk() or member.issym():
      # A symbolic link is relative to its folder, a hard link to the tar.
      folder = posixpath.dirname(at) if member.issym() else ""
      at = os.path.normpath(posixpath.join(folder, member.linkname))
      if at in by_name and at != name:
        member = by_name[at]
        continue
      problem = f"a link to {member.linkname!r}, which is no file in this tar"
    else:
      problem = "neither a file nor a link to one"
    break
  else:
    problem = "a link that leads to itself"
  raise InputError(
    f"{path}: {name} is {problem}; make the tar again, with tar --dereference "
    "and without --sparse"
  )
