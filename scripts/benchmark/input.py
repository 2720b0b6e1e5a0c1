"""Measures the throughput of the input pipeline, beside that of tf.data."""

import contextlib
import pathlib
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import jax
import numpy as np
from jax.sharding import Mesh

from bit_jax.data import pipeline
from bit_jax.data.sets import folder
from bit_jax.data.source import DatasetInfo, Source
from bit_jax.errors import InputError, one_line
from bit_jax.recipe import check, resolve
from bit_jax.recipe.load import Config
from bit_jax.run import sources
from scripts.benchmark import peers, steps
from scripts.benchmark.flags import Case
from scripts.benchmark.steps import Subject

# Most images handed to a peer; more would only fill memory.
_PEER_IMAGES = 2000


def make_photo(seed: int) -> bytes:
  """Returns a generated JPEG of 500 x 375 pixels, as large as ImageNet's.

  The size is the most frequent one of ILSVRC-2012. The image is upscaled noise
  of several scales, stronger in some places than in others: at quality 95 its
  file has about the size of ImageNet's, 100 kB, and is as slow to decode.

  Args:
    seed: Seeds the noise.
  """
  rng, (height, width) = np.random.default_rng(seed), (375, 500)

  def noise(cell_px, channels=3):
    shape = (height // cell_px + 2, width // cell_px + 2, channels)
    drawn = rng.standard_normal(shape, np.float32)
    return cv2.resize(
      drawn, (width, height), interpolation=cv2.INTER_CUBIC
    ).reshape(height, width, channels)

  image = 128 + 45 * noise(125) + 20 * noise(40)
  texture = 14 * noise(4, 1) + 16 * noise(2, 1) + 17 * noise(1, 1)
  image += texture * np.clip(0.6 + 0.5 * noise(50, 1), 0, 1.5)
  image = np.clip(image, 0, 255).astype(np.uint8)
  ok, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])
  assert ok
  return encoded.tobytes()


@contextlib.contextmanager
def photo_folder(count: int) -> Iterator[pathlib.Path]:
  """Yields a temporary folder of photos, CLASS/NUMBER.jpg, in two classes."""
  with tempfile.TemporaryDirectory(prefix="bit_jax_benchmark") as path:
    for i in range(count):
      of_class = pathlib.Path(path, "ab"[i % 2])
      of_class.mkdir(exist_ok=True)
      (of_class / f"{i}.jpg").write_bytes(make_photo(i))
    yield pathlib.Path(path)


class Pipeline:
  """The input pipeline of bit_jax, training batches on the devices.

  Measured times include starting and stopping its threads.
  """

  name = "bit_jax"
  compile_secs = 0.0

  def __init__(self, source: Source, config: Config, mesh: Mesh):
    """Takes the training examples and a resolved config."""
    self._source, self._config, self._mesh = source, config, mesh
    self._done = 0

  def run(self, steps: int) -> None:
    """Reads some batches, continuing after those of the previous call."""
    config, start = self._config, self._done
    self._done += steps
    with pipeline.train_batches(
      self._source,
      resolve.train_preprocess(config),
      batch_size=config.input.batch_size,
      seed=config.seed,
      start_step=start,
      total_steps=self._done,
      mesh=self._mesh,
      num_threads=config.input.num_threads,
    ) as batches:
      for batch in batches:
        jax.block_until_ready(batch)

  def memory(self) -> dict[str, Any]:
    """Returns {}: its share of the process's memory is unknown."""
    return {}


def _encoded(source: Source) -> list[bytes]:
  """Returns the JPEGs of a source, the only input that tf.data's code takes.

  Raises:
    InputError: An image is not a JPEG.
  """
  images = []
  for i in range(min(len(source), _PEER_IMAGES)):
    image = source.examples[i]["image"]
    if not (isinstance(image, bytes) and image.startswith(b"\xff\xd8")):
      raise InputError(f"{source.name} does not hold JPEGs only")
    images.append(image)
  return images


def make_peers(
  names: Sequence[str], source: Source, config: Config
) -> tuple[list[Subject], list[str]]:
  """Returns (subjects, notes): tf.data if named, or why it is not compared."""
  if peers.TfData.name not in names:
    return [], []
  if config.input.train != "inception":
    return [], ["tf.data is not compared: it does inception crops only"]
  px, batch = config.resolved.crop_px, config.input.batch_size
  try:
    return [peers.TfData(_encoded(source), px, batch)], []
  except (ImportError, InputError) as e:
    return [], [f"tf.data is not compared: {one_line(e)}"]


def run(
  case: Case,
  mesh: Mesh,
  *,
  peer_names: Sequence[str],
  num_images: int,
  rounds: int,
  round_secs: float,
) -> dict[str, Any]:
  """Measures a case in mode input.

  Args:
    case: The case; it reads generated photos unless it overrides a data key.
    mesh: The mesh whose devices receive the batches.
    peer_names: Names of the peers to compare with.
    num_images: Number of photos to generate.
    rounds: Turns of each pipeline.
    round_secs: Least duration of a turn.

  Returns:
    The result as it is stored in JSON, without the case.

  Raises:
    InputError: The data set is not there.
  """
  config = steps.load_config(case)
  with contextlib.ExitStack() as stack:
    if any(item.startswith("data.") for item in case.overrides):
      data = f"config.data.name={config.data.name}"
      source = sources.load(config.data, seed=config.seed).train
    else:
      path = stack.enter_context(photo_folder(num_images))
      data = f"{num_images} photos made of noise"
      source = folder.load_all(str(path))
    check.check(config, mesh)
    config = resolve.resolve(config, DatasetInfo.of(source))
    others, notes = make_peers(peer_names, source, config)
    subjects: list[Subject] = [Pipeline(source, config, mesh), *others]
    secs = steps.interleave(subjects, rounds=rounds, round_secs=round_secs)
  cores = pipeline.num_cores()
  return {
    "subjects": [
      row | {"images_per_sec_per_core": row["images_per_sec"] / cores}
      for row in steps.report(subjects, secs, batch=config.input.batch_size)
    ],
    "cores": cores,
    "data": data,
    "notes": notes,
  }
