"""The text that chooses examples: `train`, `train[:98%]`, `train[9:]+test`.

The language of TFDS (https://www.tensorflow.org/datasets/splits), read here so
that image folders and the built-in sets understand it too and every mistake
ends in the same kind of message. Left out: `all` and shards. Stricter: the two
bounds of a slice have one unit (TFDS reads [10:50%] as [10%:50%]), and a slice
that selects nothing is an error.
"""

import dataclasses
import re
from collections.abc import Mapping

from bit_jax.errors import InputError

_PART = re.compile(r"([\w-]+)(?:\[([^\[\]:]*):([^\[\]:]*)\])?")
_BOUND = re.compile(r"(-?\d+)|(-?\d+(?:\.\d+)?)%")


@dataclasses.dataclass(frozen=True)
class Piece:
  """Examples [start, stop) of a split."""

  split: str
  start: int
  stop: int


def parse(text: str, split_sizes: Mapping[str, int]) -> list[Piece]:
  """Resolves a split text to ranges of examples, in the order of the text.

  Args:
    text: split names joined by `+`, each with an optional slice whose bounds
      are both counts or both percentages; negative ones count from the end.
    split_sizes: the number of examples of each split that exists.

  Raises:
    InputError: the text is malformed, names a split that does not exist,
      reaches beyond its end or selects nothing.
  """
  return [
    _parse_part(part.strip(), text, split_sizes) for part in text.split("+")
  ]


def _parse_part(part: str, text: str, split_sizes: Mapping[str, int]) -> Piece:
  match = _PART.fullmatch(part)
  if not match:
    raise InputError(
      f"split {text!r}: {part!r} is not like train, train[:98%] or train[5:10]"
    )
  split, *bounds = match.groups()
  if split not in split_sizes:
    raise InputError(
      f"split {text!r}: there is no {split!r}; "
      f"the splits are {', '.join(split_sizes)}"
    )
  size = split_sizes[split]
  parsed = [_BOUND.fullmatch(bound or "") for bound in bounds]
  for bound, number in zip(bounds, parsed, strict=True):
    if bound and not number:
      raise InputError(
        f"split {text!r}: {bound!r} is neither a count nor a percentage"
      )
  units = {n.lastindex for n in parsed if n and n[0] != "0"}
  if len(units) > 1:
    raise InputError(
      f"split {text!r}: {part!r} mixes a count with a percentage"
    )
  first, last = parsed
  start = _position(first, size, text) if first else 0
  stop = _position(last, size, text) if last else size
  if start >= stop:
    raise InputError(
      f"split {text!r}: {part!r} selects none of the {size} examples"
    )
  return Piece(split, start, stop)


def _position(bound: re.Match[str], size: int, text: str) -> int:
  count, percent = bound.groups()
  # TFDS rounds a percentage to the closest count; so do we, for the same
  # examples as other code bases with the same text.
  offset = int(count) if count else round(float(percent) * size / 100)
  if abs(offset) > size:
    raise InputError(
      f"split {text!r}: {bound[0]} reaches beyond the {size} examples"
    )
  return offset if not bound[0].startswith("-") else size + offset
