"""Reads prepared TFDS sets (array_record) as sources, without TensorFlow."""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bit_jax.data import decode, split_text
from bit_jax.data.sets import derived_labels
from bit_jax.data.source import Source
from bit_jax.errors import InputError, one_line
from bit_jax.storage import files

IMAGE_KEY = "image"

# An array_record file is padded to whole blocks, so that most cut ones show.
_BLOCK_BYTES = 2**16
# Image headers read to estimate the typical size, if images differ in size.
_SIZE_SAMPLE = 256


def open_builder(folder: pathlib.Path) -> Any:
  """Opens a prepared version as a `tfds.core.DatasetBuilder`.

  Args:
    folder: The folder of the version, with its dataset_info.json.

  Raises:
    InputError: The metadata cannot be read, or a file of examples is missing.
  """
  import tensorflow_datasets as tfds

  try:
    builder = tfds.builder_from_directory(folder)
    # The metadata of a set converted to array_record still name tfrecord first.
    builder.info.set_file_format(
      "array_record", override=True, override_if_initialized=True
    )
    splits = list(builder.info.splits.values())
    paths = [str(file) for split in splits for file in split.filepaths]
  # For broken metadata, TFDS raises nearly any type of error.
  except Exception as error:
    raise InputError(
      f"{folder}: cannot be read as a TFDS set ({one_line(error)})"
    ) from error
  # One listing of the folder instead of a query per file.
  with os.scandir(folder) as entries:
    there = {entry.name: entry for entry in entries}
  for file in paths:
    entry = there.get(os.path.basename(file))
    if entry is None:
      raise InputError(f"{file}: the file is missing; copy the set again")
    size = entry.stat().st_size
    if not size or size % _BLOCK_BYTES:
      raise InputError(
        f"{file}: the file is cut, or another one: {size:,} bytes are no "
        f"multiple of {_BLOCK_BYTES:,}, as in every array_record file; copy "
        "the set again"
      )
  return builder


def split_sizes(builder: Any) -> dict[str, int]:
  """Returns the number of examples of each split."""
  return {
    name: split.num_examples for name, split in builder.info.splits.items()
  }


def read(
  builder: Any,
  ranges: Sequence[split_text.Range],
  name: str,
  label_key: str,
  image_scale: int = 1,
) -> Source:
  """Returns the examples of `ranges` as one source.

  Args:
    builder: The set, as returned by `open_builder`.
    ranges: Ranges of examples, which must exist.
    name: Name of the source in messages.
    label_key: The feature that holds the label, a class or a sequence of
      classes, or a key of `derived_labels.DERIVED`. A feature of the set takes
      precedence.
    image_scale: Factor for stored pixel values. With any other than 1, images
      are decoded here.

  Raises:
    InputError: There is no image feature, `label_key` is neither a class label
      nor derived from a feature of the set, or `image_scale` is not positive.
  """
  import tensorflow_datasets as tfds

  if image_scale < 1:
    raise InputError(
      f"config.data.image_scale={image_scale}: expected 1 or more"
    )
  info = builder.info
  features = dict(info.features.items())
  if not isinstance(features.get(IMAGE_KEY), tfds.features.Image):
    raise InputError(
      f"{name}: no image feature {IMAGE_KEY!r}; "
      f"the features are {', '.join(sorted(features))}"
    )
  label, multi_label = _label(builder, features, name, label_key)
  # No image is decoded, even one that is not used: decoding is the costly part.
  skipped = {
    key: tfds.decode.SkipDecoding()
    for key, feature in features.items()
    if isinstance(feature, tfds.features.Image)
  }
  records = builder.as_data_source(
    "+".join(f"{part.split}[{part.start}:{part.stop}]" for part in ranges),
    decoders=skipped,
  )
  examples = _Examples(records, name, label, multi_label, image_scale)
  return Source(
    name=name,
    examples=examples,
    class_names=label.class_names,
    image_px=_image_px(features[IMAGE_KEY].shape, examples),
    fingerprint=_fingerprint(info, ranges, label_key, image_scale),
    read_labels=functools.partial(_read_labels, examples),
    multi_label=multi_label,
  )


def _check_count(builder: Any, name: str, label_key: str, count: int) -> None:
  """Raises InputError if the file of class names is cut.

  TFDS itself counts the names that are there, and never the classes.
  """
  path = pathlib.Path(builder.data_dir) / "features.json"
  try:
    feature = files.read_json(path)["featuresDict"]["features"][label_key]
    feature = feature.get("sequence", {}).get("feature", feature)
    expected = int(feature["classLabel"]["numClasses"])
  except (InputError, LookupError, TypeError, AttributeError, ValueError):
    return  # Sets that older versions of TFDS made have no such file.
  if count != expected:
    raise InputError(
      f"{name}: {path.parent / label_key}.labels.txt has {count} class names, "
      f"but features.json says {expected}; copy the set again"
    )


def _label(
  builder: Any, features: Mapping[str, Any], name: str, label_key: str
) -> tuple[derived_labels.Derived, bool]:
  """Returns how to read a label, and True if it is a sequence of classes."""
  import tensorflow_datasets as tfds

  derived = derived_labels.DERIVED.get(label_key)
  if label_key not in features and derived:
    if derived.feature not in features:
      raise InputError(
        f"{name}: {label_key!r} follows from a feature {derived.feature!r}; "
        f"the features are {', '.join(sorted(features))}"
      )
    return derived, False
  class_label = features.get(label_key)
  multi_label = isinstance(class_label, tfds.features.Sequence)
  if multi_label:
    class_label = class_label.feature
  if not isinstance(class_label, tfds.features.ClassLabel):
    raise InputError(
      f"{name}: {label_key!r} is not a class label; "
      f"the features are {', '.join(sorted(features))}"
    )
  label = (lambda ids: [int(i) for i in ids]) if multi_label else int
  names = tuple(class_label.names)
  _check_count(builder, name, label_key, len(names))
  return derived_labels.Derived(label_key, label, names), multi_label


@dataclasses.dataclass(frozen=True)
class _Examples:
  """Examples of a TFDS data source, reduced to image and label."""

  records: Any
  name: str
  label: derived_labels.Derived
  multi_label: bool
  image_scale: int

  def __len__(self) -> int:
    return len(self.records)

  def __getitem__(self, index: int) -> dict[str, Any]:
    image, label = self.read(index)
    if self.image_scale != 1:
      image = self._scaled(image, f"{self.name} example {index}")
    return {"image": image, "label": label}

  def read(self, index: int) -> tuple[bytes, Any]:
    """Returns the encoded image as it is stored, and the label.

    Raises:
      IndexError: The index is out of range.
      InputError: The example cannot be read.
    """
    if not 0 <= index < len(self.records):
      raise IndexError(index)
    try:
      example = self.records[index]
      return example[IMAGE_KEY], self.label.label(example[self.label.feature])
    # A damaged file of examples raises errors of several libraries.
    except Exception as error:
      raise InputError(
        f"{self.name} example {index}: cannot be read ({one_line(error)}); if "
        "its file is damaged, copy the set again"
      ) from error

  def _scaled(self, data: bytes, name: str) -> np.ndarray:
    image = decode.decode(data, name)
    if int(image.max()) * self.image_scale > 255:
      raise InputError(
        f"{name}: a pixel value of {image.max()} times the image_scale "
        f"{self.image_scale} is more than 255"
      )
    return image * np.uint8(self.image_scale)


def _read_labels(examples: _Examples) -> np.ndarray:
  if examples.multi_label:
    raise InputError(
      f"{examples.name}: images have several labels; this needs one each"
    )
  found = (examples.read(index)[1] for index in range(len(examples)))
  return np.fromiter(found, np.int64, len(examples))


def _image_px(
  shape: tuple[int | None, ...], examples: _Examples
) -> tuple[int, int]:
  """Returns the typical (height, width) from the feature or a sample."""
  height, width = shape[:2]
  if height and width:
    return height, width
  sample = np.linspace(
    0, len(examples) - 1, min(len(examples), _SIZE_SAMPLE), dtype=int
  )
  return decode.median_size(
    [
      decode.image_size(
        examples.read(int(index))[0], f"{examples.name} example {index}"
      )
      for index in sample
    ]
  )


def _fingerprint(
  info: Any,
  ranges: Sequence[split_text.Range],
  label_key: str,
  image_scale: int,
) -> str:
  # The content is not read: name, version and shard lengths stand for it.
  identity = [info.full_name, label_key, image_scale]
  for part in ranges:
    shards = info.splits[part.split].shard_lengths
    identity.append([part.split, part.start, part.stop, list(shards)])
  return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
