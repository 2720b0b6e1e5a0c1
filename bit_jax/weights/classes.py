"""Brings the outputs of weights into the order of a data set's classes.

Both know their classes by number. Where both know names as well, the names
decide which output belongs to which class.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from bit_jax.errors import InputError, some
from bit_jax.storage.files import normal
from bit_jax.weights.files import Weights


def in_order(loaded: Weights, class_names: Sequence[str], what: str) -> Weights:
  """Returns weights whose outputs are in the order of a data set's classes.

  Names that only count, `0`, `1`, ..., are those that TFDS makes up for a set
  without names. They match any names.

  Args:
    loaded: The weights.
    class_names: Class names of the data set; () if unknown.
    what: Name of the weights in the message.

  Returns:
    The same weights if their names, or the data set's, are unknown, or already
    in this order.

  Raises:
    InputError: The names differ, or are not unique and in another order.
  """
  theirs, ours = loaded.class_names, tuple(map(normal, class_names))
  if not theirs or not ours or theirs == ours:
    return loaded
  if sorted(theirs) != sorted(ours):
    if len(theirs) == len(ours) and (only_count(theirs) or only_count(ours)):
      return loaded
    raise InputError(f"{what} have other classes: {difference(theirs, ours)}")
  if len(set(ours)) < len(ours):
    twice = next(name for name in ours if ours.count(name) > 1)
    raise InputError(
      f"{what} have the classes of the data set in another order, and "
      f"{twice!r} names several of them"
    )
  number = {name: i for i, name in enumerate(theirs)}
  order = [number[name] for name in ours]
  head = {
    k: np.asarray(x)[..., order] for k, x in loaded.params["head"].items()
  }
  return dataclasses.replace(
    loaded, params={**loaded.params, "head": head}, class_names=ours
  )


def difference(theirs: Sequence[str], ours: Sequence[str]) -> str:
  """Returns which class names only the weights or only the data set have."""
  sides = (("weights", theirs, ours), ("data set", ours, theirs))
  only = [
    f"{some(repr(name) for name in extra)} only in the {side}"
    for side, names, others in sides
    if (extra := set(names) - set(others))
  ]
  counts = f"{len(theirs)} in the weights, {len(ours)} in the data set"
  return "; ".join(only or [counts])


def only_count(names: Sequence[str]) -> bool:
  """Returns True for names that are numbers in order: `0`, `1`, ..."""
  return all(name == str(i) for i, name in enumerate(names))
