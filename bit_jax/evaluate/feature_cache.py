"""Features of networks that are not trained, kept between runs.

A file holds the features of one set of images. Its name is a digest of all that
they depend on: weights, code, images as they are stored, labels, preprocessing,
devices, batch size and versions; so the features that are read are those that
would be computed, bit for bit, on a machine of the same kind. The images are
read for that, but not decoded. Files appear whole or not at all, and the ones
that were not used for longest make room for new ones.
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

import cv2
import jax
import numpy as np
import PIL
from jax.sharding import Mesh

import bit_jax
from bit_jax import weights
from bit_jax.data import jpeg
from bit_jax.data.preprocess import Preprocess
from bit_jax.data.source import Source
from bit_jax.models import paths
from bit_jax.storage import cache

MAX_BYTES = 8 * 2**30  # Of all files together.
_ROUNDING = ("jax_default_matmul_precision", "jax_enable_x64")
_PACKAGE = pathlib.Path(bit_jax.__file__).parent


def row_dtype(num_features: int) -> np.dtype:
  """Returns what a row of features is: `features` float32[D], `label` int32."""
  return np.dtype([("features", "<f4", (num_features,)), ("label", "<i4")])


@dataclasses.dataclass(frozen=True)
class FeatureCache:
  """Files of features of one network.

  Attributes:
    folder: where they are, with those of other networks; need not exist.
    network: a digest of the network and of what computes with it.
    max_bytes: of all files in folder; a set whose features take more is not
      kept.
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
    """Gives the rows of a source in order, read or else computed and kept.

    A folder that cannot be read or written, or is full, is as good as none.

    Args:
      source: the images.
      preprocess: of them.
      batch_size: rows that are computed together, and given together.
      compute: gives arrays of `row_dtype` [batch_size], of the last one what is
        left.
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
    """Passes rows on, and writes them to a file that appears with the last."""
    part = None
    try:
      for rows in blocks:
        fits = count * rows.itemsize <= self.max_bytes
        if part is None and fits:
          part = _Part(path, rows.dtype, count)
        if part:
          part.write(rows)
        yield rows
      if part and part.complete():
        _remove_oldest(self.folder, self.max_bytes)
    finally:
      if part:
        part.remove()


def of(loaded: weights.Weights, mesh: Mesh) -> FeatureCache:
  """Returns the files of these weights below the user's cache folder."""
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
  for file in sorted(_PACKAGE.rglob("*.py")):
    digest.update(file.read_bytes())
  variables = {"params": loaded.params, "batch_stats": loaded.batch_stats}
  for path, array in sorted(paths.flatten(variables).items()):
    digest.update(f"{path} {array.dtype} {array.shape}".encode())
    digest.update(array.tobytes())
  return FeatureCache(cache.folder("features"), digest.hexdigest())


def _content(source: Source) -> str:
  """Returns a digest of all examples, images as they are stored."""
  digest = hashlib.blake2b()
  for i in range(len(source)):
    example = source.examples[i]
    image = example["image"]
    is_array = isinstance(image, np.ndarray)
    shape = image.shape if is_array else len(image)
    digest.update(f"{shape} {np.asarray(example['label']).tolist()} ".encode())
    digest.update(image.tobytes() if is_array else image)
  return digest.hexdigest()


class _Part:
  """A .npy file that is being written; the first error gives it up."""

  def __init__(self, path: pathlib.Path, dtype: np.dtype, count: int):
    self._path, self._file = path, None
    self._part = path.with_suffix(f".{platform.node()}.{os.getpid()}.part")
    header = {
      "descr": np.lib.format.dtype_to_descr(dtype),
      "fortran_order": False,
      "shape": (count,),
    }
    with self._giving_up():
      path.parent.mkdir(parents=True, exist_ok=True)
      self._file = self._part.open("wb")
      np.lib.format.write_array_header_1_0(self._file, header)

  def write(self, rows: np.ndarray) -> None:
    """Appends rows."""
    with self._giving_up():
      if self._file:
        self._file.write(rows.tobytes())

  def complete(self) -> bool:
    """Gives the file its name; returns whether it was written."""
    with self._giving_up():
      if self._file:
        self._file.close()
        self._part.replace(self._path)
    return self._file is not None

  def remove(self) -> None:
    """Removes the file unless it is complete."""
    if self._file:
      with contextlib.suppress(OSError):
        self._file.close()
      with contextlib.suppress(OSError):
        self._part.unlink()
    self._file = None

  @contextlib.contextmanager
  def _giving_up(self) -> Iterator[None]:
    try:
      yield
    except OSError:
      self.remove()


def _open(path: pathlib.Path, count: int) -> np.ndarray | None:
  """Returns the rows of a file, of which it must have so many, or None."""
  try:
    rows = np.load(path, mmap_mode="r")
    os.utime(path)  # Used now, so among the last to be removed.
  except (OSError, ValueError):
    return None
  fits = rows.shape == (count,) and rows.dtype.names == ("features", "label")
  return rows if fits else None


def _remove_oldest(folder: pathlib.Path, max_bytes: int) -> None:
  """Removes the files that were not used for longest until the rest fit."""
  with contextlib.suppress(OSError):
    # Parts as well: those of killed processes grow old.
    found = [(p.stat(), p) for p in folder.iterdir()]
    total = 0
    for stat, path in sorted(found, key=lambda f: f[0].st_mtime, reverse=True):
      total += stat.st_size
      if total > max_bytes:
        path.unlink(missing_ok=True)
