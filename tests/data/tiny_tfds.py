"""Writes small TFDS sets as TFDS does, but without TensorFlow."""

import io
import json

import cv2
import numpy as np
import tensorflow_datasets as tfds
from array_record.python import (
  array_record_module,  # pyright: ignore[reportAttributeAccessIssue]
)
from etils import epath


def write_tiny_tfds(
  data_dir,
  name="tiny",
  num_classes=3,
  per_class=4,
  size_px=16,
  splits=("train", "test"),
  *,
  config="",
  version="1.0.0",
  num_shards=1,
  features=None,
  make_example=None,
):
  """Writes `data_dir/name[/config]/version/` and returns its path.

  Example i of a split has label i % num_classes and is a PNG of one colour a
  class, with noise, so that a model can learn it.

  Args:
    size_px: of the square images; they are declared to be of any size.
    features: instead of `image` and `label`; then `make_example` is needed.
    make_example: (split, index) -> the example, images as encoded bytes.
  """
  folder = epath.Path(data_dir, name, config, version)
  folder.mkdir(parents=True)
  features = tfds.features.FeaturesDict(
    features
    or {
      "image": tfds.features.Image(shape=(None, None, 3)),
      "label": tfds.features.ClassLabel(num_classes=num_classes),
    }
  )
  template = tfds.core.ShardedFileTemplate(
    template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    dataset_name=name,
    filetype_suffix="array_record",
    data_dir=folder,
  )

  def default_example(split, index):
    label = index % num_classes
    return {"image": noisy_png(split, index, label, size_px), "label": label}

  infos = []
  for split in splits:
    shards = np.array_split(np.arange(num_classes * per_class), num_shards)
    for shard, indices in enumerate(shards):
      file = f"{name}-{split}.array_record-{shard:05}-of-{num_shards:05}"
      writer = array_record_module.ArrayRecordWriter(
        str(folder / file), "group_size:1"
      )
      for index in indices:
        example = (make_example or default_example)(split, int(index))
        for key, value in example.items():
          if isinstance(value, bytes):
            example[key] = io.BytesIO(value)
        writer.write(
          features.serialize_example(features.encode_example(example))
        )
      writer.close()
    infos.append(
      tfds.core.SplitInfo(
        name=split,
        shard_lengths=[len(indices) for indices in shards],
        num_bytes=0,
        filename_template=template.replace(split=split),
      )
    )
  tfds.folder_dataset.write_metadata(
    data_dir=folder,
    features=features,
    split_infos=infos,
    filename_template=template.template,
    check_data=False,
  )
  return folder


def edit_info(folder, **changes):
  """Changes fields of the dataset_info.json of a prepared version."""
  file = folder / "dataset_info.json"
  info = json.loads(file.read_text()) | changes
  file.write_text(json.dumps(info))


def noisy_png(split, index, label, size_px):
  """Returns a PNG of the colour of class `label`, with noise."""
  colour = np.random.default_rng([7, label]).integers(32, 224, 3)
  rng = np.random.default_rng([len(split), index])
  noise = rng.integers(-16, 16, (size_px, size_px, 3))
  pixels = (colour + noise).astype(np.uint8)
  return cv2.imencode(".png", pixels)[1].tobytes()
