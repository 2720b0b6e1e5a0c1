"""Removes what training programs put before and beside the keys of weights.

PyTorch's wrappers put `module.` or `_orig_mod.` into a key, and a network that
is a part of another has the name of its attribute before it, e.g. `model.`.
Counters such as `num_batches_tracked` or `global_step` are saved beside it.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

import numpy as np

from bit_jax.errors import InputError, some
from bit_jax.weights import layouts

T = TypeVar("T")

# DataParallel, torch.compile, FSDP and its checkpointing; anywhere in a key.
_WRAPPERS = re.compile(
  r"(?<![^./])(module|_orig_mod|_fsdp_wrapped_module|"
  r"_checkpoint_wrapped_module)[./]"
)
_ROOT = "root_block/conv_root/kernel"
_SEPARATOR = re.compile(r"[./]")


def remove(arrays: Mapping[str, T]) -> dict[str, T]:
  """Returns the arrays with the keys that a bare network has.

  Args:
    arrays: {key: array} of a file.

  Raises:
    InputError: Two arrays would have the same key, or there are several
      networks.
  """
  bare: dict[str, T] = {}
  for key, array in arrays.items():
    short = _WRAPPERS.sub("", key)
    if short in bare:
      raise InputError(f"two arrays are both {short}; one is {key}")
    bare[short] = array
  found = _prefixes(bare)
  if not found or found == {""}:
    return bare
  if len(found) > 1:
    raise InputError(
      f"there are {len(found)} networks in it, whose keys begin with "
      f"{some(found)}; keep one of them"
    )
  (prefix,) = found
  shortened = {key.removeprefix(prefix): x for key, x in bare.items()}
  if len(shortened) < len(bare):
    raise InputError(f"some keys are there with and without {prefix!r}")
  return shortened


def _prefixes(keys: Collection[str]) -> set[str]:
  """Returns what stands before the keys of root kernels; '' for nothing."""
  found = set()
  for key in keys:
    if _is_root(key):
      return {""}
    # Momentum has the keys of the weights it belongs to.
    if any(re.match(x.ignored, key) for x in layouts.LAYOUTS.values()):
      continue
    # The shortest one: what a layout itself puts first is no prefix.
    starts = [match.end() for match in _SEPARATOR.finditer(key)]
    start = next((i for i in starts if _is_root(key[i:])), 0)
    if start:
      found.add(key[:start])
  return found


def _is_root(key: str) -> bool:
  return any(x.path(key) == _ROOT for x in layouts.LAYOUTS.values())


def without_counters(arrays: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the arrays without counters, which no layout has a name for.

  Args:
    arrays: {key: array}, anything with shape and dtype.
  """
  return {k: x for k, x in arrays.items() if not _is_counter(k, x)}


def _is_counter(key: str, array: Any) -> bool:
  kind = np.dtype(array.dtype).kind
  shapes = [(), (1,)] if kind in "biu" else [()] if kind == "f" else []
  single = tuple(array.shape) in shapes
  return single and not any(x.path(key) for x in layouts.LAYOUTS.values())
