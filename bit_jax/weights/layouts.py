"""Names and shapes of BiT's parameters in the weight files of other code bases.

A layout is one table from parameter path to key, used in both directions, and
for each kind of parameter a rearrangement of axes with its inverse. Nothing
here reads a file or copies an array.

Sources: google-research/big_transfer (official), big_vision/models/
bit_paper.py, timm/models/resnetv2.py, transformers/models/bit/modeling_bit.py.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from bit_jax.errors import InputError, some

# The arrays of a residual unit: our path, official key, PyTorch key.
_UNIT = (
  ("gn1/scale", "a/group_norm/gamma", "norm1.weight"),
  ("gn1/bias", "a/group_norm/beta", "norm1.bias"),
  ("conv1/kernel", "a/standardized_conv2d/kernel", "conv1.weight"),
  ("gn2/scale", "b/group_norm/gamma", "norm2.weight"),
  ("gn2/bias", "b/group_norm/beta", "norm2.bias"),
  ("conv2/kernel", "b/standardized_conv2d/kernel", "conv2.weight"),
  ("gn3/scale", "c/group_norm/gamma", "norm3.weight"),
  ("gn3/bias", "c/group_norm/beta", "norm3.bias"),
  ("conv3/kernel", "c/standardized_conv2d/kernel", "conv3.weight"),
  (
    "conv_proj/kernel",
    "a/proj/standardized_conv2d/kernel",
    "downsample.conv.weight",
  ),
)
_OURS, _OFFICIAL, _TORCH = range(3)

# All other arrays: our path, official key, timm key, Hugging Face key.
_REST = (
  (
    "root_block/conv_root/kernel",
    "resnet/root_block/standardized_conv2d/kernel",
    "stem.conv.weight",
    "bit.embedder.convolution.weight",
  ),
  (
    "norm-pre-head/scale",
    "resnet/group_norm/gamma",
    "norm.weight",
    "bit.norm.weight",
  ),
  (
    "norm-pre-head/bias",
    "resnet/group_norm/beta",
    "norm.bias",
    "bit.norm.bias",
  ),
  (
    "head/kernel",
    "resnet/head/conv2d/kernel",
    "head.fc.weight",
    "classifier.1.weight",
  ),
  (
    "head/bias",
    "resnet/head/conv2d/bias",
    "head.fc.bias",
    "classifier.1.bias",
  ),
)
HEAD = ("head/kernel", "head/bias")

# Unit numbers have two digits; the largest block of a variant has 36 units.
_MAX_UNITS = 99


def _table(
  rest: int, unit_prefix: str, unit: int, prefix: str = ""
) -> dict[str, str]:
  """Returns {path: key} of all arrays that a network may have.

  Args:
    rest: Column of _REST.
    unit_prefix: Start of a unit's keys; may contain `{block}` and `{unit}`,
      counted from 1, and `{stage}` and `{layer}`, the same counted from 0.
    unit: Column of _UNIT.
    prefix: Start of all keys.
  """
  table = {row[_OURS]: prefix + row[rest] for row in _REST}
  for b in range(1, 5):
    for u in range(1, _MAX_UNITS + 1):
      start = prefix + unit_prefix.format(
        block=b, unit=u, stage=b - 1, layer=u - 1
      )
      for row in _UNIT:
        table[f"block{b}/unit{u:02d}/{row[_OURS]}"] = start + row[unit]
  return table


class View(NamedTuple):
  """A rearrangement of axes from our shape to a layout's, and its inverse.

  Both return views and raise ValueError for a shape of other axes.

  Attributes:
    write: Maps an array of our shape to the layout's.
    read: Maps an array of the layout's shape to ours.
  """

  write: Callable[[np.ndarray], np.ndarray]
  read: Callable[[np.ndarray], np.ndarray]


_SAME = View(lambda a: a, lambda a: a)
_OIHW = View(
  lambda a: a.transpose(3, 2, 0, 1), lambda a: a.transpose(2, 3, 1, 0)
)


@dataclasses.dataclass(frozen=True)
class Layout:
  """Names and shapes of one code base.

  Attributes:
    name: The name that users select it by.
    suffix: Suffix of its files, with the dot.
    table: {path: key} of all arrays that a network may have.
    conv: View of convolution kernels; ours are [H, W, I, O].
    norm: View of GroupNorm's scale and bias; ours are [C].
    head: View of the head's kernel; ours is [D, C].
    spelling: (pattern, replacement) that converts other spellings of a key, as
      some files have them, to that of the table.
    ignored: Pattern of the keys in such files that are not weights.
    has_headless: True if a network without a head is saved without the head's
      arrays.
  """

  name: str
  suffix: str
  table: dict[str, str]
  conv: View = _SAME
  norm: View = _SAME
  head: View = _SAME
  spelling: tuple[str, str] = ("$^", "")
  ignored: str = "$^"
  has_headless: bool = False

  def path(self, key: str) -> str:
    """Returns the parameter path of a key; '' if the layout has no such key."""
    return self._inverse.get(re.sub(*self.spelling, key), "")

  def view(self, path: str) -> View:
    """Returns the view of the parameter at a path."""
    if path == "head/kernel":
      return self.head
    if path.endswith("/kernel"):
      return self.conv
    return _SAME if path == "head/bias" else self.norm

  @functools.cached_property
  def _inverse(self) -> dict[str, str]:
    return {key: path for path, key in self.table.items()}


OFFICIAL = Layout(
  name="official",
  suffix=".npz",
  table=_table(1, "resnet/block{block}/unit{unit:02d}/", _OFFICIAL),
  # The head is a 1x1 convolution.
  head=View(lambda a: a[None, None], lambda a: a.squeeze((0, 1))),
  # Some files number their layers; the numbers carry no information.
  spelling=(r"(standardized_conv2d|group_norm|conv2d)_\d+", r"\1"),
)
BIT_JAX = Layout(
  name="bit_jax",
  suffix=".npz",
  table=_table(0, "block{block}/unit{unit:02d}/", _OURS),
)
BIG_VISION = Layout(
  name="big_vision",
  suffix=".npz",
  table=_table(0, "block{block}/unit{unit:02d}/", _OURS, prefix="params/"),
  norm=View(lambda a: a[None, None, None], lambda a: a.reshape(a.shape[-1])),
  # A training checkpoint has `params/` or, before optax, `opt/target/`; a
  # release often has the bare tree.
  spelling=(
    r"^(opt/target/)?(?=(root_block|block\d|norm-pre-head|head)/)",
    "params/",
  ),
  ignored=r"(opt|chrono|extra)/",
  has_headless=True,
)
TIMM = Layout(
  name="timm",
  suffix=".safetensors",
  table=_table(2, "stages.{stage}.blocks.{layer}.", _TORCH),
  conv=_OIHW,
  head=View(
    lambda a: a.T[:, :, None, None],
    lambda a: a.squeeze((2, 3)).T,
  ),
  has_headless=True,
)
HF = Layout(
  name="hf",
  suffix=".safetensors",
  table=_table(3, "bit.encoder.stages.{stage}.layers.{layer}.", _TORCH),
  conv=_OIHW,
  head=View(lambda a: a.T, lambda a: a.T),
  # Files of BitModel lack the prefix that those of BitForImageClassification
  # have.
  spelling=(r"^(?=(embedder|encoder|norm)\.)", "bit."),
  has_headless=True,
)

# A tree without prefix fits both big_vision's and ours. big_vision's comes
# first because its view reads norms of either shape.
LAYOUTS = {
  layout.name: layout for layout in (OFFICIAL, BIG_VISION, BIT_JAX, TIMM, HF)
}


def infer(keys: Iterable[str]) -> Layout:
  """Returns the layout that has most of the keys of a file.

  Raises:
    InputError: No layout has any of them.
  """
  keys = list(keys)
  counts = {
    name: sum(bool(layout.path(key)) for key in keys)
    for name, layout in LAYOUTS.items()
  }
  best = max(counts, key=lambda name: counts[name])
  if not counts[best]:
    raise InputError(
      f"these are not weights of a BiT network: no array has a name of a known "
      f"layout ({', '.join(LAYOUTS)}); there is {some(keys) or 'no array'}"
    )
  return LAYOUTS[best]


def parse_keys(layout: Layout, keys: Iterable[str]) -> dict[str, str]:
  """Returns {path: key} of the weights in a file.

  Raises:
    InputError: A key is unknown or of another layout, or two keys stand for the
      same parameter.
  """
  found: dict[str, str] = {}
  unknown = []
  for key in keys:
    path = layout.path(key)
    if path in found:
      raise InputError(f"{found[path]} and {key} are both {path}")
    if path:
      found[path] = key
    elif not re.match(layout.ignored, key):
      unknown.append(key)
  for other in LAYOUTS.values():
    if foreign := [key for key in unknown if other.path(key)]:
      raise InputError(
        f"half converted: most names are of the {layout.name} layout, but "
        f"{some(foreign)} of the {other.name} layout"
      )
  if unknown:
    raise InputError(
      f"unexpected arrays {some(unknown)} in a file of the {layout.name} layout"
    )
  return found
