import dataclasses
import threading

import cv2
import jax
import numpy as np
import pytest

from bit_jax.data import decode, pipeline, preprocess
from bit_jax.errors import InputError
from bit_jax.parallel import sharding
from tests import fakes

PLAIN = preprocess.Preprocess("none", 32)
AUGMENTED = preprocess.Preprocess("random", 24, 32, flip=True)


def read(
  source, process, mesh, *, start=0, total=6, batch_size=8, seed=0, **kw
):
  with pipeline.train_batches(
    source,
    process,
    batch_size=batch_size,
    seed=seed,
    start_step=start,
    total_steps=total,
    mesh=mesh,
    **kw,
  ) as batches:
    return [jax.device_get(b) for b in batches]


def assert_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_each_epoch_is_another_permutation():
  epochs = [
    [pipeline.example_index(p, 11, 3) for p in range(11 * e, 11 * e + 11)]
    for e in range(4)
  ]
  assert all(sorted(epoch) == list(range(11)) for epoch in epochs)
  assert len(set(map(tuple, epochs))) == 4
  other_seed = [pipeline.example_index(p, 11, 4) for p in range(11)]
  assert other_seed != epochs[0]
  assert pipeline.example_index(5, 1, 0) == 0


def test_batches_hold_the_stream_across_epoch_ends(one_device):
  source = fakes.array_source(10, 2)
  batches = read(source, PLAIN, one_device)
  indices = np.concatenate([b["index"] for b in batches])
  expected = [pipeline.example_index(p, 10, 0) for p in range(48)]
  np.testing.assert_array_equal(indices, expected)
  images = np.concatenate([b["images"] for b in batches])
  np.testing.assert_array_equal(images, source.examples.images[indices])
  labels = np.concatenate([b["labels"] for b in batches])
  np.testing.assert_array_equal(labels, source.examples.labels[indices])
  assert images.dtype == np.uint8
  assert labels.dtype == np.int32


def test_a_set_smaller_than_a_batch_repeats_within_it(one_device):
  (batch,) = read(fakes.array_source(3, 3), PLAIN, one_device, total=1)
  counts = np.bincount(batch["index"])
  assert counts.sum() == 8
  assert counts.max() == 3


def test_batch_t_depends_on_seed_and_t_alone(mesh, one_device):
  source = fakes.array_source()
  whole = read(source, AUGMENTED, one_device)
  resumed = read(source, AUGMENTED, one_device, start=4)
  assert_equal(resumed, whole[4:])
  assert_equal(read(source, AUGMENTED, mesh, num_threads=7), whole)
  other = read(source, AUGMENTED, one_device, seed=1)
  assert (other[0]["index"] != whole[0]["index"]).any()


def test_augmentation_differs_between_epochs(one_device):
  source = fakes.array_source(8, 2)
  first, second = read(source, AUGMENTED, one_device, total=2)
  order = np.argsort(first["index"]), np.argsort(second["index"])
  same = first["images"][order[0]] == second["images"][order[1]]
  assert same.all((1, 2, 3)).mean() < 0.5


def test_hosts_read_contiguous_rows_of_one_global_batch(
  one_device, monkeypatch
):
  source = fakes.array_source()
  whole = read(source, AUGMENTED, one_device)
  # Two hosts, looked at one after the other: only the local rows are checked.
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(sharding, "to_global", lambda batch, mesh: batch)
  halves = []
  for host in range(2):
    monkeypatch.setattr(jax, "process_index", lambda host=host: host)
    halves.append(read(source, AUGMENTED, one_device))
  for batch, first, second in zip(whole, *halves, strict=True):
    assert_equal({k: v[:4] for k, v in batch.items()}, first)
    assert_equal({k: v[4:] for k, v in batch.items()}, second)


def test_batches_are_split_over_the_mesh(mesh):
  source = fakes.array_source()
  with pipeline.train_batches(
    source,
    PLAIN,
    batch_size=8,
    seed=0,
    start_step=0,
    total_steps=1,
    mesh=mesh,
  ) as batches:
    batch = next(batches)
  assert batch["images"].sharding == sharding.split(mesh)
  assert batch["images"].addressable_shards[3].data.shape == (2, 32, 32, 3)


@pytest.mark.parametrize(("num_examples", "rows"), [(16, 16), (17, 24)])
def test_evaluation_reads_everything_once_and_masks_the_rest(
  mesh, num_examples, rows
):
  source = fakes.array_source(num_examples, 2)
  with pipeline.eval_batches(source, PLAIN, batch_size=8, mesh=mesh) as batches:
    got = [jax.device_get(b) for b in batches]
  mask = np.concatenate([b["mask"] for b in got])
  index = np.concatenate([b["index"] for b in got])
  assert len(mask) == rows
  np.testing.assert_array_equal(index[mask > 0], np.arange(num_examples))
  np.testing.assert_array_equal(mask, np.arange(rows) < num_examples)


def test_multi_label_examples_become_rows_of_ones(one_device):
  source = fakes.array_source(8, 4, multi_label=True)
  examples = [{"image": np.zeros((32, 32, 3), np.uint8), "label": [1, 3]}] * 8
  source = dataclasses.replace(source, examples=examples)
  (batch,) = read(source, PLAIN, one_device, total=1)
  np.testing.assert_array_equal(batch["labels"], [[0, 1, 0, 1]] * 8)
  assert batch["labels"].dtype == np.uint8


def test_encoded_images_are_decoded(one_device):
  image = np.zeros((32, 32, 3), np.uint8)
  image[..., 0] = 200  # Red in RGB.
  encoded = cv2.imencode(".png", image[..., ::-1])[1].tobytes()
  source = fakes.array_source(8, 4)
  source = dataclasses.replace(
    source, examples=[{"image": encoded, "label": 1}] * 8
  )
  (batch,) = read(source, PLAIN, one_device, total=1)
  np.testing.assert_array_equal(batch["images"], [image] * 8)


@pytest.mark.parametrize(
  ("example", "message"),
  [
    ({"image": b"no image", "label": 0}, "arrays example"),
    ({"image": b"no image", "label": 0, "name": "cat/a.jpg"}, "cat/a.jpg"),
    ({"image": np.zeros((32, 32, 3), np.uint8), "label": 4}, "label 4 is out"),
    ({"image": np.zeros((32, 32, 3), np.uint8), "label": -1}, "label -1"),
  ],
)
def test_bad_examples_are_named(one_device, example, message):
  source = dataclasses.replace(fakes.array_source(8, 4), examples=[example] * 8)
  with pytest.raises(InputError, match=message):
    read(source, PLAIN, one_device, total=1)


def test_jpegs_give_what_their_pixels_give_on_any_number_of_threads(
  mesh, one_device
):
  rng = np.random.default_rng(0)
  encoded = [
    cv2.imencode(".jpg", rng.integers(0, 256, size, np.uint8))[1].tobytes()
    for size in [(40, 50, 3), (50, 40, 3), (33, 31, 3)]
  ]

  def source(images):
    examples = [{"image": image, "label": 0} for image in images]
    return dataclasses.replace(fakes.array_source(3, 4), examples=examples)

  process = preprocess.upstream_train(24)
  decoded = source([decode.decode(data, "x") for data in encoded])
  want = read(decoded, process, one_device, num_threads=1)
  for threads in (1, 5):
    got = read(source(encoded), process, mesh, num_threads=threads)
    assert_equal(got, want)


@pytest.mark.parametrize("batch_size", [1, 3, 4, 6, 9])
def test_any_batch_size_cuts_the_same_stream(one_device, batch_size):
  source = fakes.array_source(10, 2)
  batches = read(
    source, AUGMENTED, one_device, batch_size=batch_size, total=36 // batch_size
  )
  (whole,) = read(source, AUGMENTED, one_device, batch_size=36, total=1)
  joined = {k: np.concatenate([b[k] for b in batches]) for k in whole}
  assert_equal(joined, whole)


def test_batches_are_copied_to_the_device_beside_the_loop(
  one_device, monkeypatch
):
  real, copied = sharding.to_global, []

  def to_global(batch, mesh):
    copied.append(threading.current_thread())
    return real(batch, mesh)

  monkeypatch.setattr(sharding, "to_global", to_global)
  read(fakes.array_source(), PLAIN, one_device, total=3)
  assert len(copied) == 3
  assert threading.current_thread() not in copied


def test_the_next_batches_are_made_while_one_is_used(one_device, monkeypatch):
  source, made, third = fakes.array_source(), [], threading.Event()
  real = sharding.to_global

  def to_global(batch, mesh):
    made.append(batch)
    if len(made) == 3:
      third.set()
    return real(batch, mesh)

  monkeypatch.setattr(sharding, "to_global", to_global)
  with pipeline.train_batches(
    source,
    PLAIN,
    batch_size=8,
    seed=0,
    start_step=0,
    total_steps=100,
    mesh=one_device,
  ) as batches:
    next(batches)
    assert third.wait(timeout=60)


@pytest.mark.parametrize("total", [1, 1000])
def test_threads_end_with_the_loop(one_device, total):
  before = set(threading.enumerate())
  with pipeline.train_batches(
    fakes.array_source(),
    PLAIN,
    batch_size=8,
    seed=0,
    start_step=0,
    total_steps=total,
    mesh=one_device,
  ) as batches:
    next(batches)
  # Not Grain's own, which ends on its time.
  left = set(threading.enumerate()) - before
  assert not [t for t in left if t.name.startswith("rows")]
