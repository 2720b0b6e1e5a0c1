"""Recognizes image files by their content, wherever they lie."""

import concurrent.futures
import hashlib
import os
from collections.abc import Sequence

import numpy as np

# A larger file is told from others by its beginning, middle and end.
_WHOLE_BYTES = 2**20
_PART_BYTES = 2**16
# More threads than cores: on a network file system, most of it is waiting.
_NUM_THREADS = 32


def file_ids(paths: Sequence[str]) -> np.ndarray:
  """Returns a number for each file, equal for files of the same content.

  Args:
    paths: The files; one that cannot be read has the number 0.

  Returns:
    uint64[len(paths)].
  """
  with concurrent.futures.ThreadPoolExecutor(_NUM_THREADS) as pool:
    return np.fromiter(pool.map(_file_id, paths), np.uint64, len(paths))


def _file_id(path: str) -> int:
  try:
    size = os.path.getsize(path)
    starts = (0, size // 2, size - _PART_BYTES)
    digest = hashlib.blake2b(str(size).encode(), digest_size=8)
    with open(path, "rb") as file:
      if size <= _WHOLE_BYTES:
        digest.update(file.read())
      else:
        for start in starts:
          file.seek(start)
          digest.update(file.read(_PART_BYTES))
  except OSError:
    return 0
  return int.from_bytes(digest.digest(), "little")
