import numpy as np
import pytest

from bit_jax.data.fields import ClassLabel, ClassLabels
from bit_jax.errors import InputError


def test_class_ids_become_numbers_and_sets_of_them_ones():
  label = ClassLabel(3).to_array(2, "x")
  assert (label, label.dtype) == (2, np.int32)
  many = ClassLabels(4).to_array([3, 0], "x")
  assert (many.tolist(), many.dtype) == ([1, 0, 0, 1], np.uint8)
  assert ClassLabels(2).to_array([], "x").tolist() == [0, 0]


@pytest.mark.parametrize("label", [-1, 3, 300])
@pytest.mark.parametrize("many", [False, True])
def test_labels_outside_the_classes_are_named(label, many):
  field, value = (ClassLabels, [0, label]) if many else (ClassLabel, label)
  with pytest.raises(
    InputError, match=rf"^set example 7: label {label} is outside the 3 cl"
  ):
    field(3).to_array(value, "set example 7")
