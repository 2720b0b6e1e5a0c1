"""Caches the features of networks that are not trained, in files.

A file holds the features of one set of images. Its name is a digest of all that
they depend on: weights, code, stored images, labels, preprocessing, devices,
batch size and versions. Cached features are therefore equal, bit for bit, to
those computed on a machine of the same kind. The digest needs the stored bytes
of the images but does not decode them. Files are written atomically, and the
least recently used ones are deleted to make room for new ones.
"""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
from collections.abc import Callable, Iterable, Iterator
from typing import IO

import cv2
import jax
import numpy as np
import PIL
from jax.sharding import Mesh

from bit_jax import progress, weights
from bit_jax.data import jpeg
from bit_jax.data.preprocess import Preprocess
from bit_jax.data.source import Source
from bit_jax.models import paths
from bit_jax.parallel import hosts
from bit_jax.storage import cache

# Largest total size of all files.
MAX_BYTES = 8 * 2**30
# Options of JAX that change the rounding of the features.
_ROUNDING = ("jax_default_matmul_precision", "jax_enable_x64")


def row_dtype(num_features: int) -> np.dtype:
  """Returns the dtype of a row: `features` float32[D] and `label` int32."""
  return np.dtype([("features", "<f4", (num_features,)), ("label", "<i4")])


@dataclasses.dataclass(frozen=True)
class FeatureCache:
  """Cache of the features of one network.

  Attributes:
    folder: Folder of the files, shared with other networks; need not exist.
    network: Digest of the network, the code, the devices and the versions.
    max_bytes: Largest total size of all files in the folder. A set whose
      features take more is not cached.
  """

  folder: pathlib.Path
  network: str
  max_bytes: int = MAX_BYTES

  def rows(
    self,
    source: Source,
    preprocess: Preprocess,
    batch_size: int,
    compute: Callable[[], Iterable[np.ndarray]],
  ) -> Iterator[np.ndarray]:
    """Yields the rows of a source in order, from the cache or computed.

    If the folder is unusable or full, features are computed and not cached.

    Args:
      source: The images.
      preprocess: Preprocessing of the images.
      batch_size: Rows that are computed and yielded together.
      compute: Yields arrays of `row_dtype`, shape [batch_size]; the last one
        holds the remaining rows.
    """
    what = [self.network, _content(source), repr(preprocess), batch_size]
    name = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:32]
    path = self.folder / f"{name}.npy"
    stored = _open(path, len(source))
    if stored is None:
      yield from self._kept(path, len(source), compute())
      return
    for start in range(0, len(stored), batch_size):
      yield np.array(stored[start : start + batch_size])

  def _kept(
    self, path: pathlib.Path, count: int, blocks: Iterable[np.ndarray]
  ) -> Iterator[np.ndarray]:
    """Yields the rows and writes them to a file, complete after the last."""
    part = path.with_suffix(f".{platform.node()}.{os.getpid()}.part")
    file, writable = None, True
    try:
      for rows in blocks:
        writable = writable and count * rows.itemsize <= self.max_bytes
        try:
          if writable and file is None:
            part.parent.mkdir(parents=True, exist_ok=True)
            file = part.open("wb")
            _write_header(file, rows.dtype, count)
          if writable and file:
            file.write(rows.tobytes())
        except OSError:
          writable = False
          _remove(file, part)
        yield rows
      if writable and file:
        with contextlib.suppress(OSError):
          file.close()
          part.replace(path)
          _remove_oldest(self.folder, self.max_bytes)
    finally:
      _remove(file, part)


def of(loaded: weights.Weights, mesh: Mesh) -> FeatureCache:
  """Returns the cache for some weights, in the user's cache folder.

  Args:
    loaded: The weights.
    mesh: The mesh whose devices compute the features.
  """
  device, digest = mesh.devices.flat[0], hashlib.sha256()
  computing = {
    "variant": loaded.variant,
    "options": repr(sorted(loaded.model_options.items())),
    "devices": [device.device_kind, mesh.size, device.client.platform_version],
    "versions": [
      *(jax.__version__, importlib.metadata.version("jaxlib"), np.__version__),
      *(cv2.__version__, PIL.__version__, jpeg.version()),
    ],
    "rounding": [
      os.environ.get("XLA_FLAGS", ""),
      *(str(getattr(jax.config, option)) for option in _ROUNDING),
    ],
  }
  digest.update(json.dumps(computing, sort_keys=True).encode())
  digest.update(hosts.source_code().encode())
  variables = {"params": loaded.params, "batch_stats": loaded.batch_stats}
  arrays = sorted(paths.flatten(variables).items())
  with progress.activity("naming the weights by their bits", len(arrays)) as it:
    for path, array in arrays:
      digest.update(f"{path} {array.dtype} {array.shape}".encode())
      digest.update(array.tobytes())
      it.add()
  return FeatureCache(cache.folder("features"), digest.hexdigest())


def _content(source: Source) -> str:
  """Returns a digest of all examples, with images as they are stored."""
  digest = hashlib.blake2b()
  what = f"looking for kept features of {source.name}"
  with progress.activity(what, len(source), "images") as doing:
    for i in range(len(source)):
      example = source.examples[i]
      image = example["image"]
      is_array = isinstance(image, np.ndarray)
      shape = image.shape if is_array else len(image)
      label = np.asarray(example["label"]).tolist()
      digest.update(f"{shape} {label} ".encode())
      digest.update(image.tobytes() if is_array else image)
      doing.add()
  return digest.hexdigest()


def _write_header(file: IO[bytes], dtype: np.dtype, count: int) -> None:
  """Writes what precedes the rows in a .npy file."""
  header = {
    "descr": np.lib.format.dtype_to_descr(dtype),
    "fortran_order": False,
    "shape": (count,),
  }
  np.lib.format.write_array_header_1_0(file, header)


def _remove(file: IO[bytes] | None, path: pathlib.Path) -> None:
  """Closes a file and deletes it, if it is still there."""
  with contextlib.suppress(OSError):
    if file:
      file.close()
  with contextlib.suppress(OSError):
    path.unlink()


def _open(path: pathlib.Path, count: int) -> np.ndarray | None:
  """Returns the rows of a file; None unless it is intact and has `count`."""
  try:
    rows = np.load(path, mmap_mode="r")
    # The modification time records the last use for `_remove_oldest`.
    os.utime(path)
  except (OSError, ValueError):
    return None
  fits = rows.shape == (count,) and rows.dtype.names == ("features", "label")
  return rows if fits else None


def _remove_oldest(folder: pathlib.Path, max_bytes: int) -> None:
  """Deletes the least recently used files until the others fit."""
  with contextlib.suppress(OSError):
    # This includes unfinished files, as killed processes leave them behind.
    found = [(p.stat(), p) for p in folder.iterdir()]
    total = 0
    for stat, path in sorted(found, key=lambda f: f[0].st_mtime, reverse=True):
      total += stat.st_size
      if total > max_bytes:
        path.unlink(missing_ok=True)
