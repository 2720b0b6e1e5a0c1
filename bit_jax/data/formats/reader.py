"""Reads parts of an encoded image, from memory or from a file."""

import io
import os
from typing import BinaryIO

# A file is read from its start once; what a header holds is nearly always here.
_HEAD = 1 << 14


class Reader:
  """Random access to the bytes of an image; a context manager.

  Attributes:
    num_bytes: The size of the encoded image.
  """

  def __init__(self, image: bytes | str | os.PathLike[str]):
    """Opens an image.

    Args:
      image: The encoded image, or the path of one.

    Raises:
      OSError: The file cannot be read.
    """
    self._file: BinaryIO | None = None
    if isinstance(image, bytes):
      self._head, self.num_bytes = image, len(image)
      return
    self._file = open(image, "rb", buffering=0)  # noqa: SIM115
    try:
      self.num_bytes = os.fstat(self._file.fileno()).st_size
      self._head = self._file.read(_HEAD)
    except OSError:
      self._file.close()
      raise

  def __enter__(self) -> "Reader":
    return self

  def __exit__(self, *_: object) -> None:
    if self._file:
      self._file.close()

  def read(self, at: int, size: int) -> bytes:
    """Returns `size` bytes from offset `at`; fewer at the end of the image."""
    if at + size <= len(self._head) or not self._file:
      return self._head[at : at + size]
    # A broken header may ask for more than any machine has.
    size = min(size, self.num_bytes - at)
    self._file.seek(at)
    parts = []
    while size > 0 and (part := self._file.read(size)):
      parts.append(part)
      size -= len(part)
    return b"".join(parts)

  def tail(self, size: int) -> bytes:
    """Returns the last bytes, at most `size` of them."""
    return self.read(max(0, self.num_bytes - size), size)

  def whole(self) -> bytes:
    """Returns all bytes."""
    return self.read(0, self.num_bytes)

  def as_file(self) -> BinaryIO:
    """Returns a binary file at its start; for readers of other libraries."""
    if self._file:
      self._file.seek(0)
      return self._file
    return io.BytesIO(self._head)
