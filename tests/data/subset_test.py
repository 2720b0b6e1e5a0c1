import dataclasses
import json

import numpy as np
import pytest

from bit_jax.data import subset
from bit_jax.errors import InputError
from tests import fakes


@pytest.fixture(scope="module")
def source():
  return fakes.array_source(12, 3)


def test_subset(source):
  part = subset.take(source, [5, 0], "part")
  assert part.name == "part"
  assert len(part) == 2
  assert [part.examples[i]["label"] for i in range(2)] == [2, 0]
  assert part.read_labels().tolist() == [2, 0]
  assert part.class_names == source.class_names
  fingerprints = {
    source.fingerprint,
    part.fingerprint,
    subset.take(source, [0, 5], "part").fingerprint,
  }
  assert len(fingerprints) == 3
  other = dataclasses.replace(source, fingerprint="beef")
  assert subset.take(other, [5, 0], "part").fingerprint != part.fingerprint
  again = subset.take(source, np.array([5, 0], np.int32), "other name")
  assert again.fingerprint == part.fingerprint


@pytest.mark.parametrize("indices", [[12], [-1], [0, 20]])
def test_subset_outside_the_source(source, indices):
  with pytest.raises(IndexError, match=r"^part: an index is outside \[0, 12\)"):
    subset.take(source, indices, "part")


def test_few_shot_indices():
  labels = np.random.default_rng(0).permutation(np.repeat(np.arange(5), 20))
  labels[3] = -1

  def draw(k, seed=0):
    return subset.few_shot_indices(labels, k, seed, 5)

  for k in (1, 3, 19):
    chosen = draw(k)
    assert np.bincount(labels[chosen]).tolist() == [k] * 5
    assert (np.diff(chosen) > 0).all()
    assert chosen.dtype == np.int64
  np.testing.assert_array_equal(draw(3), draw(3))
  assert not np.array_equal(draw(3), draw(3, seed=1))
  assert set(draw(1)) < set(draw(3)) < set(draw(10))


@pytest.mark.parametrize(
  ("class_names", "name"), [((), "1"), (("cat", "dog"), "'dog'")]
)
def test_few_shot_of_too_small_a_class(class_names, name):
  with pytest.raises(InputError) as error:
    subset.few_shot_indices(np.array([0, 0, 1]), 2, 0, 2, class_names)
  assert str(error.value) == (
    f"class {name} has 1 examples, fewer than the 2 examples_per_class asks for"
  )


def test_a_stored_subset_is_read_back(source, tmp_path):
  path = tmp_path / "new" / "subset.json"
  drawn = subset.balanced(source, 2, seed=1)
  np.testing.assert_array_equal(np.bincount(drawn % 3), [2, 2, 2])
  subset.write(path, source, drawn)
  np.testing.assert_array_equal(subset.read(path, source), drawn)
  subset.check_balanced(path, source, drawn, 2)


def test_a_subset_of_other_examples(source, tmp_path):
  path = tmp_path / "subset.json"
  subset.write(path, source, [0])
  other = dataclasses.replace(source, fingerprint="other")
  with pytest.raises(InputError, match="drawn from other examples than those"):
    subset.read(path, other)


@pytest.mark.parametrize("indices", [[0, 1], [0, 1, 2, 5], [0, 0, 1, 2, 2, 4]])
def test_a_subset_that_is_not_balanced(source, indices):
  with pytest.raises(InputError, match="x does not hold 2 examples of each"):
    subset.check_balanced("x", source, np.array(indices), 2)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("{", "cannot be read"),
    ("[]", "cannot be read"),
    ('{"of": "FINGERPRINT"}', "cannot be read"),
    ('{"of": "FINGERPRINT", "indices": [0.5]}', "expected a list of integers"),
    ('{"of": "FINGERPRINT", "indices": []}', "expected a list of integers"),
    ('{"of": "FINGERPRINT", "indices": [[1]]}', "expected a list of integers"),
    ('{"of": "FINGERPRINT", "indices": [12]}', "outside the 12 examples"),
    ('{"of": "FINGERPRINT", "indices": [-1]}', "outside the 12 examples"),
  ],
)
def test_a_damaged_file(source, tmp_path, text, message):
  path = tmp_path / "subset.json"
  path.write_text(text.replace("FINGERPRINT", source.fingerprint))
  with pytest.raises(InputError, match=rf"subset_file=.*{message}"):
    subset.read(path, source)


def test_a_place_that_cannot_be_written(source, tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(InputError, match="cannot be written"):
    subset.write(tmp_path / "file" / "subset.json", source, [0])


def test_the_file_is_plain_json(source, tmp_path):
  path = tmp_path / "subset.json"
  subset.write(path, source, np.array([3, 1]))
  assert json.loads(path.read_text()) == {
    "of": source.fingerprint,
    "indices": [3, 1],
  }
