import numpy as np
import pytest

from bit_jax import weights
from bit_jax.errors import InputError
from bit_jax.models import paths
from bit_jax.run import first_state
from bit_jax.weights import param_shapes


def small_params(num_classes=3, seed=0):
  rng = np.random.default_rng(seed)
  shapes = param_shapes.abstract_params("R14x0.25", num_classes)
  return paths.unflatten(
    {path: rng.normal(size=x.shape).astype("f") for path, x in shapes.items()}
  )


def test_head_is_reset_or_kept():
  loaded = weights.Weights(small_params(3, seed=1), {}, "R14x0.25")
  fresh = small_params(3, seed=2)
  reset = first_state.carry_over(loaded, fresh, keep_head=False)
  kept = first_state.carry_over(loaded, fresh, keep_head=True)
  for key in ("kernel", "bias"):
    np.testing.assert_array_equal(reset["head"][key], fresh["head"][key])
    np.testing.assert_array_equal(kept["head"][key], loaded.params["head"][key])
  for merged in (reset, kept):
    np.testing.assert_array_equal(
      merged["block4"]["unit01"]["conv2"]["kernel"],
      loaded.params["block4"]["unit01"]["conv2"]["kernel"],
    )
  other_classes = small_params(4)
  assert first_state.carry_over(loaded, other_classes, keep_head=False)
  with pytest.raises(InputError, match="3 classes.*head/"):
    first_state.carry_over(loaded, other_classes, keep_head=True)


def test_weights_without_a_head_get_one():
  loaded = weights.Weights(small_params(0), {}, "R14x0.25")
  merged = first_state.carry_over(loaded, small_params(3), keep_head=False)
  assert merged["head"]["bias"].shape == (3,)
  with pytest.raises(InputError, match="0 classes.*head/"):
    first_state.carry_over(loaded, small_params(3), keep_head=True)


def test_weights_of_another_variant():
  loaded = weights.Weights(small_params(), {}, "R14x0.25")
  shapes = param_shapes.abstract_params("R14x0.5", 3)
  with pytest.raises(InputError, match="R14x0.25 with 3 classes"):
    first_state.carry_over(loaded, paths.unflatten(shapes), keep_head=False)


def test_a_checkpoint_of_classes_in_another_order():
  check = first_state._check_classes
  # A new name for a class, or another number of them, is no other order.
  for ours in (("cat", "dog"), ("cat", "hound"), ("ant", "cat", "dog"), ()):
    check("x", ("cat", "dog"), ours)
  check("x", ("0", "1"), ("1", "x"))
  with pytest.raises(InputError, match="'cat' was class 0 and is class 1 now"):
    check("x", ("cat", "dog"), ("dog", "cat"))
  with pytest.raises(InputError, match="'dog' was class 1 and is class 0 now"):
    check("x", ("cat", "dog"), ("dog", "zebra"))
