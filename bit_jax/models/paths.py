"""Converts parameter trees to flat dicts; matches paths against patterns.

The paths are a public contract.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from flax import traverse_util

from bit_jax.errors import InputError


def flatten(tree: Any) -> dict[str, Any]:
  """Returns {path: leaf} of a nested dict, e.g. `block1/unit01/gn1/scale`."""
  return traverse_util.flatten_dict(tree, sep="/")


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the nested dict of {path: leaf}, the inverse of `flatten`."""
  return traverse_util.unflatten_dict(dict(flat), sep="/")


def match(tree: Any, patterns: Sequence[str]) -> Any:
  """Marks the leaves whose path matches one of the patterns.

  Args:
    tree: A nested dict.
    patterns: Regular expressions that must match from the start of a path, e.g.
      `block[12]/` or `.*kernel$`.

  Returns:
    A nested dict of bools with the structure of tree.

  Raises:
    InputError: A pattern matches no path.
  """
  flat = flatten(tree)
  for pattern in patterns:
    if not any(re.match(pattern, path) for path in flat):
      raise InputError(
        f"{pattern!r} matches no parameter; paths look like {next(iter(flat))}"
      )
  return unflatten(
    {path: any(re.match(p, path) for p in patterns) for path in flat}
  )
