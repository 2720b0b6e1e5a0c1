import numpy as np
import pytest

from bit_jax import weights
from bit_jax.errors import InputError
from bit_jax.weights import classes


def make(*names):
  count = len(names)
  head = {
    "kernel": np.arange(2 * count).reshape(2, -1),
    "bias": np.arange(count),
  }
  return weights.Weights({"head": head, "x": {}}, {}, "R14x1", names)


@pytest.mark.parametrize(
  ("theirs", "ours", "order"),
  [
    ("abc", "abc", [0, 1, 2]),
    ("cab", "abc", [1, 2, 0]),
    # TFDS numbers classes; folders sort the numbers as text.
    (map(str, range(12)), sorted(map(str, range(12))), None),
    (("caf\u00e9", "a"), ("a", "cafe\u0301"), [1, 0]),
    (("\ufeffcat", "dog"), ("dog", "cat"), [1, 0]),
    # Names that only count say nothing.
    ("abc", "012", [0, 1, 2]),
    ("012", "abc", [0, 1, 2]),
    ("abc", "", [0, 1, 2]),
    (("crane", "ape", "crane"), ("crane", "ape", "crane"), [0, 1, 2]),
  ],
)
def test_outputs_follow_the_names(theirs, ours, order):
  theirs, ours = tuple(theirs), tuple(ours)
  if order is None:
    order = [theirs.index(name) for name in ours]
  loaded = make(*theirs)
  head = classes.in_order(loaded, ours, "weights x").params["head"]
  assert head["bias"].tolist() == order
  expected = loaded.params["head"]["kernel"][:, order]
  np.testing.assert_array_equal(head["kernel"], expected)


@pytest.mark.parametrize(
  ("theirs", "ours", "message"),
  [
    (
      "abd",
      "abc",
      "x have other classes: 'd' only in the weights; 'c' only in",
    ),
    ("012", "0123", "'3' only in the data set"),
    ("aab", "aba", "in another order, and 'a' names several"),
    ("aab", "abb", "3 in the weights, 3 in the data set"),
  ],
)
def test_other_names_are_refused(theirs, ours, message):
  with pytest.raises(InputError, match=message):
    classes.in_order(make(*theirs), tuple(ours), "weights x")
