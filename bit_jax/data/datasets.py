"""Opens data sets by name and loads parts of their splits."""

import bisect
import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from bit_jax.data import split_text, subset
from bit_jax.data.sets import (
  builtin,
  digits,
  folder,
  glyphs,
  layout,
  tfds,
  tfds_folders,
)
from bit_jax.data.source import Examples, Source
from bit_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Dataset:
  """An image set whose splits can be loaded.

  Attributes:
    name: The name that was given to `open_dataset`.
    split_sizes: The number of examples of each split.
    read: Returns ranges of examples as a source of the given name.
    held_out: The files of an image folder held out of train, for
      `open_dataset` when the run is resumed; empty for everything else.
    percent_floor: Round percentages of a split down, not to the closest count.
    eval_splits: The splits that may be evaluated on by default, the most
      preferred first.
    skipped: The files of an image folder that are left out, with the reasons.
  """

  name: str
  split_sizes: dict[str, int]
  read: Callable[[Sequence[split_text.Range], str], Source]
  held_out: list[str] = dataclasses.field(default_factory=list)
  percent_floor: bool = False
  eval_splits: Sequence[str] = layout.EVAL_SPLITS
  skipped: list[str] = dataclasses.field(default_factory=list)

  def load(self, split: str) -> Source:
    """Returns the examples of a split text such as `train[:98%]+validation`.

    Raises:
      InputError: The text is malformed (see `split_text.parse`), or the
        examples cannot be used.
    """
    try:
      ranges = split_text.parse(
        split, self.split_sizes, percent_floor=self.percent_floor
      )
    except InputError as error:
      raise InputError(f"{self.name}: {error}") from error
    return self.read(ranges, f"{self.name} {split}")

  def default_splits(self) -> tuple[str, str]:
    """Returns the names of the splits to train and to evaluate on.

    The second is test, or else validation (valid, val; dev, eval, holdout in a
    folder of images), or else ''. Splits without labels, such as ImageNet's
    test, are skipped.

    Raises:
      InputError: There is no train split.
    """
    if "train" not in self.split_sizes:
      raise InputError(
        f"{self.name}: there is no train split, only "
        f"{', '.join(self.split_sizes)}; choose what to train on"
      )
    return "train", next(filter(self._is_labelled, self.eval_splits), "")

  def _is_labelled(self, split: str) -> bool:
    if not self.split_sizes.get(split):
      return False
    first = self.load(f"{split}[:1]").examples[0]
    # TFDS marks a missing label by -1.
    return bool(np.all(np.asarray(first["label"]) >= 0))


def open_dataset(
  dataset: str,
  *,
  data_dir: str = "",
  label_key: str = "label",
  image_scale: int = 1,
  percent_floor: bool = False,
  seed: int = 0,
  held_out: Collection[str] = (),
  cache_dir: str = "",
  nested_classes: bool = False,
  skip_bad: bool = False,
  any_version: bool = False,
) -> Dataset:
  """Finds an image set and its splits; scans it if it is a folder of images.

  Args:
    dataset: `folder:PATH` (see `folder.load`), `glyphs`, `digits`, or a TFDS
      set, `NAME[/CONFIG][:VERSION]`, prepared as array_record under `data_dir`.
    data_dir: Folder of the TFDS sets; '': $TFDS_DATA_DIR or
      ~/tensorflow_datasets.
    label_key: The feature of a TFDS set that holds the label, or a name of
      `derived_labels.DERIVED`.
    image_scale: Factor for the pixel values of a TFDS set.
    percent_floor: Round percentages of a split down, not to the closest count.
    seed: Draws the images held out of a folder without an evaluation split.
    held_out: The files to hold out instead; see `Dataset.held_out`.
    cache_dir: Where to store the scan of a folder; '': nowhere.
    nested_classes: Accepts classes of a folder whose images are all in several
      folders below the class folder.
    skip_bad: Leaves out files of a folder that are no sound images; for other
      sets it does nothing.
    any_version: Takes another version of a TFDS set than the one named if that
      is not there, with a note.

  Raises:
    InputError: There is no such set, or it cannot be used.
  """
  if dataset.startswith("folder:"):
    loaded = folder.load(
      dataset.removeprefix("folder:"),
      seed=seed,
      held_out=held_out,
      cache_dir=cache_dir,
      nested_classes=nested_classes,
      skip_bad=skip_bad,
    )
    opened = dataclasses.replace(
      _from_sources(dataset, loaded.splits, loaded.held_out),
      eval_splits=layout.FOLDER_EVAL_SPLITS,
      skipped=loaded.skipped,
    )
  elif dataset in ("glyphs", "digits"):
    read = {"glyphs": glyphs.load, "digits": digits.load}[dataset]
    opened = _from_sources(dataset, {s: read(s) for s in builtin.SPLITS})
  else:
    found = tfds_folders.find(dataset, data_dir, any_version=any_version)
    builder = tfds.open_builder(found)
    opened = Dataset(
      dataset,
      tfds.split_sizes(builder),
      functools.partial(
        tfds.read,
        builder,
        label_key=label_key,
        image_scale=image_scale,
      ),
    )
  return dataclasses.replace(opened, percent_floor=percent_floor)


def load(dataset: str, split: str, **kwargs: Any) -> Source:
  """Returns one split; short for `open_dataset(dataset, ...).load(split)`.

  A folder of images is scanned at each call; to load several splits, open it
  once.

  Raises:
    InputError: There is no such set or split, or it cannot be used.
  """
  return open_dataset(dataset, **kwargs).load(split)


@dataclasses.dataclass(frozen=True)
class _Joined:
  """The examples of several parts, one after the other."""

  parts: Sequence[Examples]

  @functools.cached_property
  def _stops(self) -> list[int]:
    return list(itertools.accumulate(map(len, self.parts)))

  def __len__(self) -> int:
    return self._stops[-1]

  def __getitem__(self, index: int) -> dict[str, Any]:
    part = bisect.bisect_right(self._stops, index)
    start = self._stops[part - 1] if part else 0
    return self.parts[part][index - start]


def _from_sources(
  name: str, sources: dict[str, Source], held_out: Sequence[str] = ()
) -> Dataset:
  def read(ranges: Sequence[split_text.Range], text: str) -> Source:
    parts = []
    for part in ranges:
      source = sources[part.split]
      if part.stop - part.start < len(source):
        source = subset.take(source, np.arange(part.start, part.stop), text)
      parts.append(source)
    if len(parts) == 1:
      return parts[0]
    fingerprints = " ".join(part.fingerprint for part in parts)
    return dataclasses.replace(
      parts[0],
      name=text,
      examples=_Joined([part.examples for part in parts]),
      fingerprint=hashlib.sha256(fingerprints.encode()).hexdigest()[:16],
      read_labels=lambda: np.concatenate(
        [part.read_labels() for part in parts]
      ),
      files=parts[0].files
      and (lambda: [path for part in parts for path in part.files()]),
    )

  sizes = {split: len(source) for split, source in sources.items()}
  return Dataset(name, sizes, read, list(held_out))
