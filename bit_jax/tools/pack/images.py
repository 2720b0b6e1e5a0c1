"""The images to pack: their places in folders and tars, reading and checks."""

import array
import dataclasses
import gzip
import os
import zlib
from collections.abc import Sequence
from typing import Any

from bit_jax import progress
from bit_jax.data import decode
from bit_jax.errors import InputError, one_line


@dataclasses.dataclass
class Images:
  """The images of one split, stored by column to save memory.

  ImageNet-21k has 14 million images.

  Attributes:
    root: The folder that names are relative to.
    names: File names of the images. An image in a tar has the name that it
      would have if the tar were unpacked next to itself.
    labels: Class id of each image, or a tuple of them in multi-label sets.
    tars: Paths of the tar files.
    places: Three numbers per image: the index of its tar in `tars`, and its
      offset and size there in bytes; -1, 0, 0 for a separate file.
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
    """Returns the path of an image, for messages."""
    tar = self.places[3 * index]
    name = self.names[index]
    return f"{self.tars[tar]} ({name})" if tar >= 0 else self._path(index)

  def num_bytes(self, index: int) -> int:
    """Returns the size of an image's file in bytes.

    Raises:
      InputError: The file is missing.
    """
    tar, _, size = self.places[3 * index : 3 * index + 3]
    try:
      return size if tar >= 0 else os.stat(self._path(index)).st_size
    except OSError as e:
      raise InputError(f"{self._path(index)}: {e.strerror}") from e

  def read(self, index: int) -> bytes:
    """Returns the bytes of an image's file.

    Raises:
      InputError: The file cannot be read.
    """
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
  """Checks an image's header and end; returns its bytes, uncompressed.

  A few JPEG files of ImageNet-21k are compressed with gzip.

  Args:
    data: Content of the file.
    name: Name of the image for error messages.

  Raises:
    InputError: The file is not an image that can be decoded.
  """
  if data.startswith(b"\x1f\x8b"):
    try:
      data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as e:
      raise InputError(f"{name}: {one_line(e)}") from e
  if not data:
    raise InputError(f"{name}: the file is empty")
  # Without its end marker, the image is decoded.
  if note := decode.check(data, name).note:
    progress.say(f"{name}: {note}")
  return data
