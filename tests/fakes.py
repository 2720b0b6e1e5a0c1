"""Small data sets, configs and batches that several tests share."""

import numpy as np

from bit_jax.data import source
from bit_jax.data.source import Source
from bit_jax.parallel import sharding
from bit_jax.recipe import resolve
from bit_jax.run import start
from configs import downstream, upstream

MODEL = "R14x0.0625"


class ArrayExamples:
  """Seeded 32 px images of stripes, whose direction depends on the class."""

  def __init__(self, num_examples, num_classes, seed):
    rng = np.random.default_rng(seed)
    self.labels = np.arange(num_examples) % num_classes
    angle = np.pi * self.labels / num_classes
    y, x = np.mgrid[:32, :32]
    across = np.multiply.outer(np.cos(angle), x)
    across += np.multiply.outer(np.sin(angle), y)
    stripes = 128 + 60 * np.sin(
      across + rng.uniform(0, 6, (num_examples, 1, 1))
    )
    noise = rng.normal(0, 20, (num_examples, 32, 32, 3))
    self.images = np.clip(stripes[..., None] + noise, 0, 255)
    self.images = self.images.astype(np.uint8)

  def __len__(self):
    return len(self.images)

  def __getitem__(self, index):
    return {"image": self.images[index], "label": int(self.labels[index])}


def array_source(num_examples=40, num_classes=4, seed=0, **kw):
  """Returns a Source of seeded images; `kw` replaces its other fields."""
  examples = ArrayExamples(num_examples, num_classes, seed)
  names = tuple(f"class {i}" for i in range(num_classes))
  fields = dict(
    name="arrays",
    examples=examples,
    class_names=names,
    image_px=(32, 32),
    fingerprint=f"arrays-{num_examples}-{num_classes}-{seed}",
    read_labels=lambda: examples.labels.astype(np.int64),
    native_px=32,
    flip=False,
  )
  return Source(**(fields | kw))


def make_config(**overrides):
  """Returns a config for four steps of training; overrides are flat keys."""
  config = downstream.get_config(f"preset=quick,model={MODEL}")
  config.total_steps = 4
  config.input.batch_size = 8
  config.log_every_steps = 1
  config.data.name = "arrays"
  with config.unlocked():
    config.update_from_flattened_dict(overrides)
  return config


def upstream_config(*, batch_size=16, **overrides):
  """Returns a config for pre-training; the override `a__b` sets `a.b`."""
  config = upstream.get_config("preset=bit_s,model=R14x0.25")
  config.input.batch_size = batch_size
  config.update_from_flattened_dict(
    {key.replace("__", "."): value for key, value in overrides.items()}
  )
  return config


def resolved(config, num_classes=4, num_examples=40):
  """Returns a config resolved for a data set of 32 px images."""
  info = source.DatasetInfo(num_examples, num_classes, (32, 32), native_px=32)
  return resolve.resolve(config, info)


def spec(config, mesh):
  """Returns the StepSpec of a resolved config."""
  return start.make_spec(config, mesh)[0]


def a_batch(mesh, seed=0, num_classes=4, size=8):
  """Returns a global batch of seeded random images and labels."""
  rng = np.random.default_rng(seed)
  batch = {
    "images": rng.integers(0, 256, (size, 32, 32, 3), np.uint8),
    "labels": rng.integers(0, num_classes, (size,)).astype(np.int32),
    "index": rng.integers(0, 2**31, (size,)).astype(np.int32),
  }
  return sharding.to_global(batch, mesh)
