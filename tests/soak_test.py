"""What a long run and a study of many runs repeat must leave nothing behind.

Each operation is repeated for some seconds. Open files, threads, device buffers
and memory are counted now and then, and must not grow with the operations: a
line fitted to the counts shows one file that is left open by each of them.
"""

import gc
import itertools
import os
import threading
import time

import jax
import numpy as np
import pytest

from bit_jax import train, weights
from bit_jax.data import pipeline
from bit_jax.data.preprocess import Preprocess
from bit_jax.errors import InputError
from bit_jax.evaluate import feature_cache, metrics
from bit_jax.parallel import sharding
from bit_jax.run import step
from bit_jax.run.sources import RunData
from bit_jax.storage import checkpoint, remote
from bit_jax.writers import writer
from tests import fakes

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(
    not os.path.isdir("/proc/self/fd"), reason="counts open files by /proc"
  ),
]

SAMPLES = 12
COUNTED = ("open files", "threads", "device buffers", "KiB of memory")
# A count that is left behind by every fifth operation is found.
MOST = 0.2
# Where few operations fit in the time, memory grows by less than this anyway.
UNSTEADY_KIB = 12 * 1024
PX = 64


def counts():
  gc.collect()
  with open("/proc/self/statm") as file:
    pages = int(file.read().split()[1])
  return (
    len(os.listdir("/proc/self/fd")),
    threading.active_count(),
    len(jax.live_arrays()),
    pages * os.sysconf("SC_PAGE_SIZE") / 1024,
  )


def slopes(operation, secs):
  """Returns what each operation adds to the counts, and their number."""
  numbers = itertools.count()
  for _ in range(3):  # What is kept once, such as compiled functions.
    operation(next(numbers))
  rows = []
  started = time.monotonic()
  for sample in range(SAMPLES):
    while True:
      number = next(numbers)
      operation(number)
      if time.monotonic() - started > secs * (sample + 1) / SAMPLES:
        break
    rows.append((number, *counts()))
  number, *columns = np.array(rows, float).T
  # The memory of the first operations stays with the allocator.
  half = SAMPLES // 2
  last = [slice(None)] * 3 + [slice(half, None)]
  return [
    np.polyfit(number[part], column[part], 1)[0]
    for part, column in zip(last, columns, strict=True)
  ], int(number[-1])


def check(operation, secs, most_kib):
  grown, number = slopes(operation, secs)
  # The memory's line is that of the second half of the operations.
  limits = (MOST, MOST, MOST, max(most_kib, UNSTEADY_KIB / (number / 2)))
  left = [
    f"{slope:.2f} {what}"
    for slope, limit, what in zip(grown, limits, COUNTED, strict=True)
    if slope > limit
  ]
  assert not left, f"each of {number} operations leaves {', '.join(left)}"


@pytest.fixture
def state(one_device):
  """An array of 1 MiB: a copy that is left behind shows in the memory."""
  array = np.ones((512, 512), np.float32)
  return jax.device_put(
    {"params": {"x": array}}, sharding.replicated(one_device)
  )


@pytest.fixture
def source():
  return fakes.array_source()


def test_saves(tmp_path, state):
  with checkpoint.Checkpointer(tmp_path, keep=2) as manager:

    def save(number):
      manager.save(number, state, {"number": number})

    check(save, 16, most_kib=300)


def test_folders_of_checkpoints_opened_and_closed(tmp_path, state):
  def use(number):
    with checkpoint.Checkpointer(tmp_path, keep=1) as manager:
      manager.save(number, state, {})

  check(use, 4, most_kib=300)


def test_restores(tmp_path, state):
  with checkpoint.Checkpointer(tmp_path, keep=1) as manager:
    manager.save(1, state, {})
  path = remote.absolute(tmp_path / "1")
  like = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
  )

  def restore(_):
    saved = checkpoint.read_saved(path)
    checkpoint.check(path, saved, checkpoint.restore(path, like))
    checkpoint.load_weights(path)

  check(restore, 5, most_kib=300)


def test_saves_and_restores_that_fail(tmp_path, state):
  (tmp_path / "damaged" / "1").mkdir(parents=True)

  def fail(_):
    with checkpoint.Checkpointer(tmp_path, keep=1) as manager:
      if not checkpoint.steps(tmp_path):
        manager.save(1, state, {})
      with pytest.raises(InputError, match="cannot be written"):
        manager.save(1, state, {})
    with pytest.raises(checkpoint.DamagedError):
      checkpoint.read_saved(remote.absolute(tmp_path / "damaged" / "1"))

  check(fail, 3, most_kib=300)


@pytest.mark.parametrize("num_batches", [0, 1, 7])
def test_training_batches(mesh, source, num_batches):
  def use(number):
    with pipeline.train_batches(
      source,
      Preprocess("none", PX),
      batch_size=8,
      seed=0,
      start_step=number,
      total_steps=number + 5,
      mesh=mesh,
      num_threads=2,
    ) as batches:
      assert len(list(itertools.islice(batches, num_batches))) <= 5

  check(use, 2, most_kib=50)


@pytest.mark.parametrize("num_batches", [1, 9])
def test_evaluation_batches(mesh, source, num_batches):
  def use(_):
    with pipeline.eval_batches(
      source, Preprocess("none", PX), batch_size=8, mesh=mesh, num_threads=2
    ) as batches:
      assert len(list(itertools.islice(batches, num_batches))) <= 5

  check(use, 2, most_kib=50)


def test_evaluations(mesh, source):
  spec = fakes.spec(fakes.resolved(fakes.make_config()), mesh)
  state = step.make_init(spec)(0)

  def evaluate(_):
    metrics.evaluate_split(
      *(spec.objective, state.params, state.carried, source),
      Preprocess("none", 32),
      mesh=mesh,
    )

  check(evaluate, 5, most_kib=200)


def test_writers(tmp_path, capsys):
  def write(_):
    with writer.create(
      tmp_path, total_steps=9, start_step=0, batch_size=8, is_lead=True
    ) as metric_writer:
      metric_writer.write_scalars(1, {"train/loss": 1.0})

  check(write, 2, most_kib=50)


def test_cached_features(tmp_path, source):
  cache = feature_cache.FeatureCache(tmp_path, "network")
  rows = np.zeros(8, feature_cache.row_dtype(512))

  def use(number):
    found = cache.rows(
      source, Preprocess("none", number + 1), 8, lambda: [rows] * 5
    )
    next(found)
    if number % 3:  # Else, it is left in the middle.
      list(found)
      found = cache.rows(source, Preprocess("none", number + 1), 8, list)
      assert len(list(found)) == 5

  check(use, 2, most_kib=50)


def test_whole_runs_in_one_process(tmp_path, source, capsys):
  data = RunData(source, {"test": fakes.array_source(21, seed=1)})

  def run(number):
    workdir = tmp_path / str(number)
    config = fakes.make_config(**{"eval.every_steps": 2})
    train.train_and_evaluate(config, workdir, data=data)
    weights.load(workdir / "params.npz")

  check(run, 10, most_kib=3000)
