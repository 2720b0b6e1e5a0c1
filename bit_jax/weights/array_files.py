"""Reads and writes .npz and .safetensors files, one array at a time.

Converting a large network then does not need all of it in memory. Nothing is
pickled, and nothing here depends on what the arrays are.
"""

import contextlib
import json
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any

import jax.numpy as jnp
import numpy as np
import safetensors
from etils import epath

from bit_jax import progress
from bit_jax.errors import InputError, one_line
from bit_jax.storage import remote
from bit_jax.weights import recognize

# Names of the float dtypes, in NumPy and in .safetensors files.
FLOATS = {
  "float64": "F64",
  "float32": "F32",
  "float16": "F16",
  "bfloat16": "BF16",
}
# Counters lie beside the weights in files of others.
_INTEGERS = {
  **{f"int{bits}": f"I{bits}" for bits in (8, 16, 32, 64)},
  **{f"uint{bits}": f"U{bits}" for bits in (8, 16, 32, 64)},
  "bool": "BOOL",
}


class LazyArray:
  """An array in a file, read by np.asarray on every call.

  Attributes:
    shape: Shape of the array.
    dtype: Dtype of the array.
  """

  def __init__(
    self, shape: Sequence[int], dtype: Any, read: Callable[[], np.ndarray]
  ):
    self.shape = tuple(shape)
    self.dtype = np.dtype(dtype)
    self._read = read

  def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
    # Every call reads the file, so the result is always a copy.
    del copy
    return np.asarray(self._read(), dtype)


def rearrange(
  array: Any, view: Callable[[np.ndarray], np.ndarray]
) -> LazyArray:
  """Returns a lazy array whose axes are rearranged when it is read.

  Args:
    array: An array, or anything with shape and dtype that np.asarray reads,
      e.g. a LazyArray.
    view: Rearranges the axes of an array, e.g. one of layouts.View.

  Raises:
    ValueError: The view cannot be taken of an array of this shape.
  """
  # The same view of a dummy, a broadcast scalar, gives the new shape (or the
  # error) without reading the array.
  like = np.broadcast_to(np.zeros((), bool), array.shape)
  return LazyArray(
    view(like).shape, array.dtype, lambda: view(np.asarray(array))
  )


@contextlib.contextmanager
def open_arrays(path: epath.Path) -> Iterator[dict[str, LazyArray]]:
  """Opens a .safetensors or a .npz file, whatever its suffix.

  Args:
    path: An existing file; if it is in an object store, it is downloaded whole.

  Yields:
    {key: array}. Reading an array raises InputError if it is damaged.

  Raises:
    InputError: The file is damaged, something else, or cannot be fetched, or a
      .safetensors file contains arrays that are neither floats nor integers.
  """
  with contextlib.ExitStack() as stack:
    try:
      local = stack.enter_context(remote.local_copy(path))
    except OSError as e:
      raise InputError(
        f"weights {path}: cannot be fetched: {one_line(e)}"
      ) from e
    with recognize.explaining(path):
      is_safetensors = recognize.is_safetensors(path, local)
      opened = (_open_safetensors if is_safetensors else _open_npz)(path, local)
      arrays = stack.enter_context(opened)
    yield arrays


@contextlib.contextmanager
def _open_npz(
  path: epath.Path, local: epath.Path
) -> Iterator[dict[str, LazyArray]]:
  """Yields {key: array} of a .npz file.

  It is a zip file, which has a checksum of each array.
  """
  read_header = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
  }
  with local.open("rb") as f:
    npz: Any = np.load(f, allow_pickle=False)

    def lazy(key: str) -> LazyArray:
      with npz.zip.open(f"{key}.npy") as member:
        version = np.lib.format.read_magic(member)
        shape, _, stored = read_header[version](member)
      # NumPy stores bfloat16 as two bytes of unknown type.
      dtype = jnp.bfloat16 if stored == np.dtype("V2") else stored

      def read() -> np.ndarray:
        with recognize.explaining(path):
          return npz[key].view(dtype)

      return LazyArray(shape, dtype, read)

    yield {key: lazy(key) for key in npz.files}


@contextlib.contextmanager
def _open_safetensors(
  path: epath.Path, local: epath.Path
) -> Iterator[dict[str, LazyArray]]:
  """Yields {key: array} of a .safetensors file."""
  names = FLOATS | _INTEGERS
  dtypes = {stored: name for name, stored in names.items()}
  # With a memory map, the pages of the file would count as this process's
  # memory, in addition to the arrays that are made of them.
  with safetensors.safe_open(local, framework="numpy", backend="pread") as f:

    def lazy(key: str) -> LazyArray:
      def read() -> np.ndarray:
        with recognize.explaining(path):
          return f.get_tensor(key)

      info = f.get_slice(key)
      stored = info.get_dtype()
      if stored not in dtypes:
        raise InputError(f"weights {path}: {key} is {stored}, expected floats")
      return LazyArray(info.get_shape(), dtypes[stored], read)

    # In the order of the file, so that reading all of them never seeks back.
    yield {key: lazy(key) for key in f.offset_keys()}


def write_arrays(path: epath.PathLike, arrays: Mapping[str, Any]) -> None:
  """Writes a .safetensors file, or a .npz file for any other suffix.

  The file appears under its name only when it is complete.

  Args:
    path: The file to write; an existing one is replaced.
    arrays: {key: array or LazyArray}; only floats for .safetensors.

  Raises:
    InputError: The file cannot be written.
  """
  is_safetensors = epath.Path(path).suffix == recognize.SAFETENSORS
  write = _write_safetensors if is_safetensors else _write_npz
  with (
    _replacing(epath.Path(path)) as f,
    progress.activity(f"writing {path}", len(arrays), "arrays") as doing,
  ):
    write(f, arrays, doing.add)


@contextlib.contextmanager
def _replacing(path: epath.Path) -> Iterator[IO[bytes]]:
  """Opens a file that appears under its name only when it is complete."""
  # An object store needs this as well: an object that is open when an error
  # comes is closed and so completed.
  part = path.with_name(path.name + ".part")
  try:
    with remote.os_errors():
      with part.open("wb") as f:
        yield f
      part.replace(path)
  except OSError as e:
    reason = e.strerror or one_line(e)
    raise InputError(f"{path}: cannot be written: {reason}") from e
  finally:
    with contextlib.suppress(OSError), remote.os_errors():
      part.unlink(missing_ok=True)


def _write_npz(
  f: IO[bytes], arrays: Mapping[str, Any], after_array: Callable[[], None]
) -> None:
  """Writes the same as np.savez, but one array at a time."""
  with zipfile.ZipFile(f, "w") as npz:
    for key, array in arrays.items():
      with npz.open(f"{key}.npy", "w", force_zip64=True) as member:
        array = np.asarray(array, order="C")
        np.lib.format.write_array(member, array, allow_pickle=False)
      after_array()


def _write_safetensors(
  f: IO[bytes], arrays: Mapping[str, Any], after_array: Callable[[], None]
) -> None:
  """Writes the same as safetensors.numpy.save_file, but one array at a time.

  The format: the header's length as uint64, the header as JSON, the raw arrays,
  all little-endian. https://github.com/huggingface/safetensors#format
  """
  # Hugging Face refuses files without this entry.
  header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
  end = 0
  for key, array in arrays.items():
    start, end = end, end + math.prod(array.shape) * array.dtype.itemsize
    header[key] = {
      "dtype": FLOATS[array.dtype.name],
      "shape": array.shape,
      "data_offsets": (start, end),
    }
  encoded = json.dumps(header).encode()
  # Padding aligns the arrays to 8 bytes.
  encoded += b" " * (-len(encoded) % 8)
  f.write(len(encoded).to_bytes(8, "little"))
  f.write(encoded)
  for array in arrays.values():
    little = array.dtype.newbyteorder("<")
    raw = np.asarray(array, little, order="C").reshape(-1).view(np.uint8)
    f.write(raw.data)
    after_array()
