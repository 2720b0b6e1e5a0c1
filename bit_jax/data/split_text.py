"""Parses split texts, such as `train`, `train[:98%]` or `train[9:]+test`.

The syntax is that of TFDS (https://www.tensorflow.org/datasets/splits). It is
parsed here so that it also works for image folders and the built-in sets, and
so that every mistake ends in the same kind of message. `all` and shards are not
supported. Two rules are stricter: both bounds of a slice have the same unit
(TFDS reads [10:50%] as [10%:50%]), and a slice must select something.

Two things are added: slices of slices, and percentages that round down.
`train[90%:][:200]` is the first 200 examples of the last tenth of train.
"""

import dataclasses
import fractions
import re
from collections.abc import Mapping

from bit_jax.errors import InputError

_SLICE = re.compile(r"\[([^\[\]:]*):([^\[\]:]*)\]")
_PART = re.compile(rf"([\w-]+)((?:{_SLICE.pattern})*)")
_BOUND = re.compile(r"(-?\d+)|(-?\d+(?:\.\d+)?)%")


@dataclasses.dataclass(frozen=True)
class Range:
  """Examples [start, stop) of a split."""

  split: str
  start: int
  stop: int


def parse(
  text: str,
  split_sizes: Mapping[str, int],
  *,
  percent_floor: bool = False,
) -> list[Range]:
  """Resolves a split text to ranges of examples, in the order of the text.

  Args:
    text: Split names joined by `+`, each followed by any number of slices. A
      slice has two counts or two percentages of what stands before it as its
      bounds; negative ones count from the end.
    split_sizes: The number of examples of each split that exists.
    percent_floor: Round percentages down, not to the closest count.

  Raises:
    InputError: The text is malformed, names a split that does not exist,
      reaches beyond the end or selects nothing.
  """
  try:
    return [
      _parse_part(part.strip(), split_sizes, percent_floor)
      for part in text.split("+")
    ]
  except InputError as e:
    raise InputError(f"split {text!r}: {e}") from e


def _parse_part(
  part: str, split_sizes: Mapping[str, int], percent_floor: bool
) -> Range:
  match = _PART.fullmatch(part)
  if not match:
    raise InputError(
      f"{part!r} is not like train, train[:98%], train[5:10] or "
      "train[90%:][:200]"
    )
  split = match[1]
  if split not in split_sizes:
    raise InputError(
      f"there is no {split!r}; the splits are {', '.join(split_sizes)}"
    )
  start, stop = 0, split_sizes[split]
  for bounds in _SLICE.finditer(match[2]):
    size = stop - start
    first, last = _parse_slice(bounds, size, percent_floor)
    if first >= last:
      raise InputError(f"{part!r} selects none of the {size} examples")
    start, stop = start + first, start + last
  return Range(split, start, stop)


def _parse_slice(
  bounds: re.Match[str], size: int, percent_floor: bool
) -> tuple[int, int]:
  """Returns the first example of a slice of `size` examples, and its end."""
  parsed = [_BOUND.fullmatch(bound) for bound in bounds.groups()]
  for bound, number in zip(bounds.groups(), parsed, strict=True):
    if bound and not number:
      raise InputError(f"{bound!r} is neither a count nor a percentage")
  if len({n.lastindex for n in parsed if n and n[0] != "0"}) > 1:
    raise InputError(f"{bounds[0]!r} mixes a count with a percentage")
  first, last = parsed
  return (
    _position(first, size, percent_floor) if first else 0,
    _position(last, size, percent_floor) if last else size,
  )


def _position(bound: re.Match[str], size: int, percent_floor: bool) -> int:
  count, percent = bound.groups()
  if count:
    offset = int(count)
  elif percent_floor:
    # Fractions are exact; floats would put 32.3 % of 1000 at 322.
    offset = int(fractions.Fraction(percent) * size / 100)
  else:
    # TFDS rounds a percentage to the closest count; so do we, for the same
    # examples as other code bases with the same text.
    offset = round(float(percent) * size / 100)
  if abs(offset) > size:
    raise InputError(f"{bound[0]} reaches beyond the {size} examples")
  return offset if not bound[0].startswith("-") else size + offset
