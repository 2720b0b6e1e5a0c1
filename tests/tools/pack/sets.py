"""Makes small image folders, packs them and reads the packed sets."""

import itertools
import shutil
import tarfile

import cv2
import numpy as np
import tensorflow_datasets as tfds

from bit_jax.data import datasets
from bit_jax.tools.pack import __main__ as pack

_counter = itertools.count(1)


def write(root, *names):
  """Writes small images, all different, and returns the root."""
  for name in names:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((8, 12, 3), next(_counter) % 256, np.uint8)
    pixels[0] = np.random.default_rng(next(_counter)).integers(0, 256, 3)
    path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())
  return root


def numbered(*classes, count=4, suffix=".jpg"):
  return [f"{name}/{i:02}{suffix}" for name in classes for i in range(count)]


def tar(root):
  """Replaces every class folder by a tar."""
  for path in [p for p in root.iterdir() if p.is_dir()]:
    with tarfile.open(f"{path}.tar", "w") as file:
      for member in path.iterdir():
        file.add(member, member.name)
    shutil.rmtree(path)


def run(src, data_dir, **kwargs):
  """Packs `src` as set `mine`, in a few shards."""
  pack.pack(str(src), "mine", str(data_dir), **{"shard_mib": 0.001, **kwargs})


def records(data_dir, split="train"):
  """Returns (file_name, bytes, label) of every example, in order."""
  builder = tfds.builder_from_directory(data_dir / "mine" / "1.0.0")
  decoders = {"image": tfds.decode.SkipDecoding()}
  source = builder.as_data_source(split, decoders=decoders)
  return [
    (e["file_name"].decode(), e["image"], np.asarray(e["label"]).tolist())
    for e in (source[i] for i in range(len(source)))
  ]


def load(data_dir, split="train"):
  return datasets.open_dataset("mine", data_dir=str(data_dir)).load(split)


def examples(source):
  """Returns the sorted (bytes, label) pairs of all examples."""
  found = (source.examples[i] for i in range(len(source)))
  return sorted((e["image"], e["label"]) for e in found)


def tree(root):
  return {p: p.lstat().st_mtime_ns for p in root.rglob("*")}
