"""The images that `pack` packs: where they are, and whether they are whole."""

import array
import dataclasses
import gzip
import os
import zlib
from collections.abc import Sequence
from typing import Any

from bit_jax.data import decode
from bit_jax.errors import InputError, one_line

# Of JPEG and PNG.
_ENDS = (b"\xff\xd9", b"IEND\xaeB`\x82")


@dataclasses.dataclass
class Images:
  """The images of one split, in columns: ImageNet-21k has 14 million.

  Attributes:
    root: the folder that names are relative to.
    names: of the image files; in a tar, as if it were unpacked where it is.
    labels: of each image, a class id or (multi-label sets) a tuple of them.
    tars: paths of tar files.
    places: three numbers an image: which of `tars` it is in, and its offset and
      size there; -1, 0, 0 for a file of its own.
  """

  root: str
  names: list[str] = dataclasses.field(default_factory=list)
  labels: list[Any] = dataclasses.field(default_factory=list)
  tars: list[str] = dataclasses.field(default_factory=list)
  places: array.array = dataclasses.field(
    default_factory=lambda: array.array("q")
  )

  def __len__(self) -> int:
    return len(self.names)

  def add(self, name: str, label: Any, place: Sequence[int] = (-1, 0, 0)):
    """Appends an image."""
    self.names.append(name)
    self.labels.append(label)
    self.places.extend(place)

  def where(self, index: int) -> str:
    """Returns what an image is called in a message."""
    tar = self.places[3 * index]
    name = self.names[index]
    return f"{self.tars[tar]} ({name})" if tar >= 0 else self._path(index)

  def num_bytes(self, index: int) -> int:
    """Returns the size of an image's file; raises InputError if it is gone."""
    tar, _, size = self.places[3 * index : 3 * index + 3]
    try:
      return size if tar >= 0 else os.stat(self._path(index)).st_size
    except OSError as e:
      raise InputError(f"{self._path(index)}: {e.strerror}") from e

  def read(self, index: int) -> bytes:
    """Returns an image's file; raises InputError if it cannot be read."""
    tar, offset, size = self.places[3 * index : 3 * index + 3]
    path = self.tars[tar] if tar >= 0 else self._path(index)
    try:
      with open(path, "rb", buffering=0) as file:
        if tar < 0:
          return file.read()
        file.seek(offset)
        return file.read(size)
    except OSError as e:
      raise InputError(f"{path}: {e.strerror}") from e

  def _path(self, index: int) -> str:
    return os.path.join(self.root, self.names[index])


def checked(data: bytes, name: str) -> bytes:
  """Returns the bytes of an image after a look at its header and its end.

  A few of ImageNet-21k's JPEG files are compressed with gzip; that is undone.

  Args:
    data: a file.
    name: what the image is called in an error message.

  Raises:
    InputError: it is no image that can be decoded.
  """
  if data.startswith(b"\x1f\x8b"):
    try:
      data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as e:
      raise InputError(f"{name}: {one_line(e)}") from e
  if not data:
    raise InputError(f"{name}: the file is empty")
  decode.image_size(data, name)
  # In a file that was cut off, the header is fine; but not in WebP.
  if not data.endswith(_ENDS) and not data.startswith(b"RIFF"):
    decode.decode(data, name)
  return data
