"""Seeded BiT weights in the official .npz layout, shared by the golden files and the tests that read them.

`names_and_shapes` lists the keys of an official BiT .npz file; `make` fills them from a generator
seeded by the key itself, so that any program can rebuild exactly the weights a golden was made with.
"""

import zlib

import numpy as np

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def names_and_shapes(depth, width, num_classes):
  """Yields (key, shape) for every array of BiT-*-R{depth}x{width}.npz."""
  stem = 64 * width
  yield "resnet/root_block/standardized_conv2d/kernel", (7, 7, 3, stem)
  channels = stem
  for b, units in enumerate(BLOCKS[depth], 1):
    mid = stem * 2 ** (b - 1)
    for u in range(1, units + 1):
      prefix = f"resnet/block{b}/unit{u:02d}"
      if u == 1:
        yield (
          f"{prefix}/a/proj/standardized_conv2d/kernel",
          (1, 1, channels, 4 * mid),
        )
      yield f"{prefix}/a/standardized_conv2d/kernel", (1, 1, channels, mid)
      yield f"{prefix}/b/standardized_conv2d/kernel", (3, 3, mid, mid)
      yield f"{prefix}/c/standardized_conv2d/kernel", (1, 1, mid, 4 * mid)
      for part, n in (("a", channels), ("b", mid), ("c", mid)):
        yield f"{prefix}/{part}/group_norm/gamma", (n,)
        yield f"{prefix}/{part}/group_norm/beta", (n,)
      channels = 4 * mid
  yield "resnet/group_norm/gamma", (channels,)
  yield "resnet/group_norm/beta", (channels,)
  yield "resnet/head/conv2d/kernel", (1, 1, channels, num_classes)
  yield "resnet/head/conv2d/bias", (num_classes,)


def array(key, shape, seed=0):
  """float32 array for `key`; the same key, shape and seed always give the same numbers."""
  rng = np.random.Generator(np.random.PCG64([seed, zlib.crc32(key.encode())]))
  x = rng.standard_normal(shape, dtype=np.float32)
  if key.endswith("gamma"):
    return np.float32(1) + np.float32(0.1) * x
  if key.endswith(("beta", "bias")):
    return np.float32(0.1) * x
  if "head" in key:
    return np.float32(0.01) * x
  return np.float32(0.05) * x + np.float32(0.01)


def make(depth, width, num_classes, seed=0):
  """{key: float32 array} for a whole model."""
  return {
    k: array(k, s, seed) for k, s in names_and_shapes(depth, width, num_classes)
  }


def images(batch, height, width, seed=0):
  """float32[batch, height, width, 3], uniform in [-1, 1]."""
  rng = np.random.Generator(np.random.PCG64([seed, 77]))
  return (
    rng.random((batch, height, width, 3), dtype=np.float32) * 2 - 1
  ).astype(np.float32)
