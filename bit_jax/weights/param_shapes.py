"""Infers a variant from parameter shapes; checks parameters against it."""

import re
from collections.abc import Mapping
from typing import Any

from bit_jax import models
from bit_jax.errors import InputError, some
from bit_jax.models import init, paths
from bit_jax.weights import array_files


def infer_variant(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, int]:
  """Infers variant and number of classes from the shapes of parameters.

  Picks the depth whose unit counts are closest, so that a damaged file is
  compared with the network it came from.

  Args:
    shapes: {parameter path: shape}.

  Returns:
    (variant, num_classes), e.g. ("R50x1", 1000).

  Raises:
    InputError: There is no root kernel or no head, or the root's width is not
      that of any variant.
  """
  for key in ("root_block/conv_root/kernel", "head/kernel"):
    if key not in shapes:
      raise InputError(
        f"no array {key}: these are not weights of a BiT network"
      )
  units = [0, 0, 0, 0]
  for path in shapes:
    if match := re.match(r"block([1-4])/unit(\d\d)/", path):
      block = int(match[1]) - 1
      units[block] = max(units[block], int(match[2]))
  root = shapes["root_block/conv_root/kernel"]
  small = root[0] == 3

  def distance(depth):
    arch = models.ARCHITECTURES[depth]
    return (
      arch.small_images != small,
      sum(abs(a - b) for a, b in zip(arch.units, units, strict=True)),
    )

  depth = min(models.ARCHITECTURES, key=distance)
  variant = f"R{depth}x{root[-1] / 64:g}"
  models.parse_variant(variant)
  return variant, shapes["head/kernel"][-1]


def abstract_params(
  variant: str, num_classes: int, norm: str = "gn"
) -> dict[str, Any]:
  """Returns {path: jax.ShapeDtypeStruct} of a variant, without computing it."""
  model: Any = models.create(variant, num_classes=num_classes, norm=norm)
  return paths.flatten(init.trace(model).shapes["params"])


def check_params(
  name: str, params: Any, variant: str, num_classes: int, norm: str = "gn"
) -> None:
  """Checks names, shapes and dtypes of parameters against a variant's.

  Args:
    name: Name of the file in the message.
    params: Nested dict of arrays.
    variant: The variant that they should belong to.
    num_classes: Number of outputs that the head should have.
    norm: The network's normalization, one of models.OPTIONS["norm"].

  Raises:
    InputError: An array is missing, unexpected, or of another shape or a dtype
      that is no float; the message lists them.
  """
  have = paths.flatten(params)
  want = abstract_params(variant, num_classes, norm)
  missing = [k for k in want if k not in have]
  unexpected = [k for k in have if k not in want]
  shapes = [
    f"{k} {tuple(have[k].shape)} instead of {want[k].shape}"
    for k in want
    if k in have and tuple(have[k].shape) != want[k].shape
  ]
  dtypes = [
    f"{k} {v.dtype}"
    for k, v in have.items()
    if v.dtype.name not in array_files.FLOATS
  ]
  problems = [
    f"{what}: {some(keys)}"
    for what, keys in (
      ("missing", missing),
      ("unexpected", unexpected),
      ("wrong shape", shapes),
      ("wrong dtype", dtypes),
    )
    if keys
  ]
  if problems:
    raise InputError(
      f"{name} does not hold the weights of {variant} with {num_classes} "
      f"classes; {'; '.join(problems)}"
    )
