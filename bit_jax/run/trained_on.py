"""Tells which images weights were trained on, so that none is a test of them.

`params.npz` keeps a number for each file of a folder of images. They are known
again in any folder. For checkpoints, params.npz beside them or the config of
their work directory tells.
"""

import base64
import dataclasses
from collections.abc import Mapping
from typing import Any

import ml_collections
import numpy as np
from etils import epath

from bit_jax import weights
from bit_jax.data.sets.file_ids import file_ids
from bit_jax.data.source import Source
from bit_jax.errors import InputError
from bit_jax.run import sources, workdir_files
from bit_jax.storage import files, remote, user_paths

# 0.8 MB in params.npz.
_MOST_FILES = 100_000


@dataclasses.dataclass(frozen=True)
class TrainedOn:
  """The images that weights were trained on.

  Attributes:
    fingerprint: That of the training source; '' if unknown.
    ids: uint64, sorted: the numbers of its files; empty if unknown.
  """

  fingerprint: str = ""
  ids: np.ndarray = dataclasses.field(
    default_factory=lambda: np.zeros(0, np.uint64)
  )

  def find(self, source: Source) -> np.ndarray:
    """Returns the indices of the images of a source that are among them."""
    if source.files and len(self.ids):
      return np.flatnonzero(np.isin(file_ids(source.files()), self.ids))
    same = self.fingerprint and self.fingerprint == source.fingerprint
    return np.arange(len(source) if same else 0)


def describe(source: Source | None) -> dict[str, Any]:
  """Returns what `params.npz` keeps of a training source, as JSON types."""
  if source is None:
    return {}
  kept: dict[str, Any] = {"fingerprint": source.fingerprint}
  if source.files and len(source) <= _MOST_FILES:
    ids = _known(file_ids(source.files())).astype("<u8")
    kept["files"] = base64.b64encode(ids.tobytes()).decode()
  return kept


def of(path: epath.PathLike, loaded: weights.Weights) -> TrainedOn:
  """Returns what weights were trained on, as far as it is known.

  Args:
    path: What `loaded` was loaded from.
    loaded: The weights.
  """
  if loaded.trained_on:
    return _parse(loaded.trained_on)
  place = epath.Path(user_paths.expand(path))
  if not place.exists():
    return TrainedOn()
  for workdir in (place, place.parent, place.parent.parent):
    if not remote.exists(workdir / workdir_files.CONFIG):
      continue
    if remote.exists(workdir / "params.npz"):
      with weights.open_lazily(workdir / "params.npz") as finished:
        if finished.trained_on:
          return _parse(finished.trained_on)
    return _of_config(workdir)
  return TrainedOn()


def _of_config(workdir: epath.Path) -> TrainedOn:
  """Returns what a run trains on whose params.npz does not tell."""
  try:
    config = files.read_json(workdir / workdir_files.CONFIG)
    print_ = config["resolved"]["data_fingerprint"].split(" ")[0]
    if not config["data"]["name"].startswith("folder:"):
      return TrainedOn(print_)
    data = ml_collections.ConfigDict(config["data"])
    held_out = workdir_files.read_held_out(workdir)
    train = sources.load(data, seed=config["seed"], held_out=held_out).train
  # The folder may be elsewhere, or the config that of another program.
  except (InputError, LookupError, AttributeError, TypeError):
    return TrainedOn()
  assert train.files
  return TrainedOn(print_, _known(file_ids(train.files())))


def _parse(kept: Mapping[str, Any]) -> TrainedOn:
  raw = base64.b64decode(kept.get("files", ""))
  ids = np.frombuffer(raw, "<u8").astype(np.uint64)
  return TrainedOn(str(kept.get("fingerprint", "")), ids)


def _known(ids: np.ndarray) -> np.ndarray:
  """Returns the numbers of files that could be read, sorted."""
  return np.unique(ids[ids != 0])
