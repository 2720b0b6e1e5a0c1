import dataclasses
import itertools
import os
import resource

import jax
import numpy as np
import pytest

from bit_jax import weights
from bit_jax.data import preprocess
from bit_jax.evaluate import feature_cache
from bit_jax.parallel import hosts
from tests import fakes

PLAIN = preprocess.Preprocess("none", 32)
NUM_ROWS = 11


def make_blocks(count=NUM_ROWS, size=4):
  rows = np.empty(count, feature_cache.row_dtype(3))
  rows["features"] = np.random.default_rng(0).normal(size=(count, 3))
  rows["label"] = np.arange(count)
  return [rows[i : i + size] for i in range(0, count, size)]


def get(cache, source=None, way=PLAIN, size=4, blocks=None):
  """Returns the rows from the cache and True if they were computed."""
  calls = []

  def compute():
    calls.append(1)
    yield from make_blocks() if blocks is None else blocks

  source = source or fakes.array_source(NUM_ROWS)
  given = list(cache.rows(source, way, size, compute))
  assert [len(x) for x in given] == [4, 4, 3]
  return np.concatenate(given).tobytes(), bool(calls)


@pytest.fixture
def cache(tmp_path):
  return feature_cache.FeatureCache(tmp_path / "a" / "features", "network")


def test_the_second_time_nothing_is_computed(cache):
  first = get(cache)
  assert first == (np.concatenate(make_blocks()).tobytes(), True)
  assert get(cache) == (first[0], False)
  assert [p.suffix for p in cache.folder.iterdir()] == [".npy"]


def changed(source, key):
  """Returns a copy of a source with one value of one example changed."""
  examples = [dict(source.examples[i]) for i in range(NUM_ROWS)]
  value = np.array(examples[7][key])
  value.flat[-1] += 1
  examples[7][key] = value
  return dataclasses.replace(source, examples=examples)


def test_all_that_features_depend_on_counts(cache):
  source = fakes.array_source(NUM_ROWS)
  get(cache, source)
  for other in (
    {"source": changed(source, "image")},
    {"source": changed(source, "label")},
    {"way": preprocess.Preprocess("central", 32, 48)},
    {"cache": dataclasses.replace(cache, network="other")},
  ):
    assert get(**({"cache": cache, "source": source} | other))[1], other
  assert not get(cache, source)[1]
  rows = cache.rows(source, PLAIN, 5, lambda: make_blocks(size=5))
  assert [len(x) for x in rows] == [5, 5, 1]
  assert len(list(cache.folder.iterdir())) == 6


def test_rows_that_were_not_all_wanted_leave_nothing_behind(cache):
  source = fakes.array_source(NUM_ROWS)
  rows = cache.rows(source, PLAIN, 4, make_blocks)
  assert len(list(itertools.islice(rows, 2))) == 2
  assert [p.suffix for p in cache.folder.iterdir()] == [".part"]
  rows.close()
  assert not list(cache.folder.iterdir())


@pytest.mark.parametrize("damage", ["cut", "text", "fewer", "other"])
def test_a_damaged_file_is_made_anew(cache, damage):
  wanted, _ = get(cache)
  [path] = cache.folder.iterdir()
  if damage == "cut":
    path.write_bytes(path.read_bytes()[:-1])
  elif damage == "text":
    path.write_text("text")
  else:
    rows = np.load(path)
    np.save(path, rows[:-1] if damage == "fewer" else rows["features"])
  assert get(cache) == (wanted, True)
  assert get(cache) == (wanted, False)


def test_a_folder_that_cannot_be_used_is_as_good_as_none(tmp_path):
  (tmp_path / "file").write_text("")
  for folder in (tmp_path / "file", tmp_path / "file" / "features"):
    assert get(feature_cache.FeatureCache(folder, "network"))[1]


@pytest.mark.parametrize("limit", [100, 200])
def test_a_full_disk_costs_only_the_file(cache, limit):
  old = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old[1]))
  try:
    assert get(cache)[1]
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, old)
  assert not list(cache.folder.iterdir())
  assert get(cache)[1]
  assert not get(cache)[1]


def test_what_was_not_used_for_longest_is_removed(cache):
  get(cache)
  [first] = cache.folder.iterdir()
  size = first.stat().st_size
  two = dataclasses.replace(cache, max_bytes=2 * size)
  get(dataclasses.replace(two, network="b"))
  for age, path in enumerate([first, *set(two.folder.iterdir()) - {first}]):
    os.utime(path, (age, age))
  assert not get(two)[1]  # The first one is now the last used.
  get(dataclasses.replace(two, network="c"))
  assert len(list(cache.folder.iterdir())) == 2
  assert not get(two)[1]
  assert get(dataclasses.replace(two, network="b"))[1]


def test_a_set_that_is_too_large_is_not_kept(cache):
  small = dataclasses.replace(cache, max_bytes=NUM_ROWS * 16 - 1)
  assert get(small)[1]
  assert not cache.folder.exists()


def make_weights(**changed):
  params = {"head": {"kernel": np.eye(3, dtype="f"), "bias": np.zeros(3, "f")}}
  return dataclasses.replace(weights.Weights(params, {}, "R14x0.25"), **changed)


def test_a_network_is_its_weights_and_what_computes_with_them(
  monkeypatch, mesh, one_device, tmp_path
):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

  def network(where=one_device, **changed):
    return feature_cache.of(make_weights(**changed), where).network

  found = feature_cache.of(make_weights(), one_device)
  assert found.folder == tmp_path / "bit_jax" / "features"
  assert network() == found.network
  other = jax.tree.map(np.copy, make_weights().params)
  other["head"]["kernel"][2, 1] = 1e-30
  names = [
    network(),
    network(mesh),
    network(params=other),
    network(batch_stats={"mean": np.zeros(1)}),
    network(variant="R26x1"),
    network(model_options={"norm": "bn"}),
  ]
  with jax.default_matmul_precision("highest"):
    names.append(network())
  monkeypatch.setenv("XLA_FLAGS", "--other")
  names.append(network())
  monkeypatch.setattr(hosts, "_PACKAGE", tmp_path)
  (tmp_path / "a.py").write_text("x = 1")
  names.append(network())
  assert len(set(names)) == len(names)
