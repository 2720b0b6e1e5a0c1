import collections
import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor

import cv2
import jax
import numpy as np
import pytest

from bit_jax.data import in_memory, pipeline, preprocess
from bit_jax.errors import InputError
from tests import fakes

_NUM = 12


class EncodedExamples:
  """PNGs of random pixels; counts how often each is read."""

  def __init__(self, sizes=((40, 32),) * _NUM):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*hw, 3), np.uint8) for hw in sizes]
    self.encoded = [cv2.imencode(".png", i)[1].tobytes() for i in images]
    self.reads = collections.Counter()

  def __len__(self):
    return len(self.encoded)

  def __getitem__(self, index):
    self.reads[index] += 1
    image = self.encoded[index]
    return {"image": image, "label": index % 4, "name": f"{index}.png"}


def make_source(examples, image_px=(40, 32)):
  return dataclasses.replace(
    fakes.array_source(), examples=examples, image_px=image_px
  )


def batches_of(source, mesh, seed=0):
  with pipeline.train_batches(
    source,
    preprocess.hyperrule_train(30, 24),
    batch_size=8,
    seed=seed,
    start_step=0,
    total_steps=6,
    mesh=mesh,
  ) as batches:
    return [jax.device_get(b) for b in batches]


def evaluated(source, mesh):
  with pipeline.eval_batches(
    source, preprocess.hyperrule_test(24), batch_size=8, mesh=mesh
  ) as batches:
    return [jax.device_get(b) for b in batches]


def test_batches_are_the_same_and_nothing_is_read_twice(one_device):
  plain = make_source(EncodedExamples())
  examples = EncodedExamples()
  source = in_memory.cache_in_memory(make_source(examples), in_memory.Memory(1))
  assert not examples.reads
  for seed in range(2):
    jax.tree.map(
      np.testing.assert_array_equal,
      batches_of(source, one_device, seed),
      batches_of(plain, one_device, seed),
    )
  for _ in range(2):
    jax.tree.map(
      np.testing.assert_array_equal,
      evaluated(source, one_device),
      evaluated(plain, one_device),
    )
  assert len(examples.reads) == _NUM
  # In the first pass, two threads may read the same example at once.
  examples.reads.clear()
  batches_of(source, one_device)
  evaluated(source, one_device)
  assert not examples.reads


def test_only_the_examples_are_replaced():
  source = make_source(EncodedExamples())
  cached = in_memory.cache_in_memory(source, in_memory.Memory(1))
  assert dataclasses.replace(cached, examples=source.examples) == source
  assert len(cached) == _NUM
  for _ in range(2):
    example = cached.examples[5]
    assert example["label"] == 1
    assert example["name"] == "5.png"
    assert example["image"].shape == (40, 32, 3)
  with pytest.raises(IndexError):
    cached.examples[_NUM]


def test_cached_examples_are_read_only():
  array = np.zeros((40, 32, 3), np.uint8)
  arrays = make_source([{"image": array, "label": 0}] * 8)
  for source in (arrays, make_source(EncodedExamples())):
    cached = in_memory.cache_in_memory(source, in_memory.Memory(1))
    for _ in range(3):
      example = cached.examples[0]
      assert example["label"] == 0
      example["label"] = 9
      with pytest.raises(ValueError, match="read-only"):
        example["image"][0] = 0
  # The source's own array stays writable.
  assert array.flags.writeable


@pytest.mark.parametrize("budget_mb", [0, 1])
def test_a_source_that_does_not_fit_is_not_cached(budget_mb):
  large = make_source(EncodedExamples(), image_px=(200, 200))
  assert in_memory.cache_in_memory(large, in_memory.Memory(budget_mb)) is large


def test_sources_share_a_budget_in_their_order():
  memory = in_memory.Memory(1)
  half = make_source(EncodedExamples(), image_px=(110, 110))
  assert in_memory.cache_in_memory(half, memory) is not half
  assert in_memory.cache_in_memory(half, memory) is not half
  assert in_memory.cache_in_memory(half, memory) is half
  small = make_source(EncodedExamples(), image_px=(8, 8))
  assert in_memory.cache_in_memory(small, memory) is not small


def test_memory_is_counted_and_never_exceeds_the_budget():
  # Images are larger than the typical size that the estimate is made from.
  sizes = [(300, 200)] * _NUM
  examples = EncodedExamples(sizes)
  memory = in_memory.Memory(1)
  source = in_memory.cache_in_memory(
    make_source(examples, image_px=(100, 100)), memory
  )
  for _ in range(2):
    for i in range(_NUM):
      assert source.examples[i]["image"].shape == (300, 200, 3)
  fit = 2**20 // (300 * 200 * 3 + 512)
  assert memory.used_bytes == fit * (300 * 200 * 3 + 512)
  assert sum(examples.reads.values()) == _NUM + _NUM - fit


def test_an_example_read_by_several_threads_is_counted_once():
  class Together(EncodedExamples):
    def __getitem__(self, index):
      example = super().__getitem__(index)
      arrived.wait(timeout=60)
      return example

  arrived = threading.Barrier(4)
  memory = in_memory.Memory(1)
  source = in_memory.cache_in_memory(make_source(Together()), memory)
  with ThreadPoolExecutor(4) as pool:
    images = list(pool.map(lambda _: source.examples[0]["image"], range(4)))
  assert memory.used_bytes == 40 * 32 * 3 + 512
  for image in images:
    np.testing.assert_array_equal(image, images[0])


def test_a_damaged_image_is_named_on_every_read():
  examples = [{"image": b"no image", "label": 0}] * 8
  source = make_source(examples)
  cached = in_memory.cache_in_memory(source, in_memory.Memory(1))
  for _ in range(2):
    with pytest.raises(InputError, match="arrays example 3"):
      cached.examples[3]
