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
