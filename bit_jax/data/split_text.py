"""The text that chooses examples: `train`, `train[:98%]`, `train[9:]+test`.

The language of TFDS (https://www.tensorflow.org/datasets/splits), read here so
that image folders and the built-in sets understand it too and every mistake
ends in the same kind of message. Left out: `all` and shards. Stricter: the two
bounds of a slice have one unit (TFDS reads [10:50%] as [10%:50%]), and a slice
that selects nothing is an error.

Added: names for parts, `val=train[90%:],train=train[:90%],small=val[:200]`, and
percentages that round down. A definition may use the set's own splits and the
names before it, as an assignment would: the first `train` above is the set's
own, and from the second definition on `train` means 90 % of it. Nothing is
looked up before a name is used.
"""

import dataclasses
import fractions
import re
from collections.abc import Iterator, Mapping, Sequence

from bit_jax.errors import InputError

_PART = re.compile(r"([\w-]+)(?:\[([^\[\]:]*):([^\[\]:]*)\])?")
_DEFINITION = re.compile(r"([\w-]+)\s*=\s*([^=]+)")
_BOUND = re.compile(r"(-?\d+)|(-?\d+(?:\.\d+)?)%")


@dataclasses.dataclass(frozen=True)
class Piece:
  """Examples [start, stop) of a split."""

  split: str
  start: int
  stop: int


def parse_definitions(text: str, key: str) -> tuple[tuple[str, str], ...]:
  """Returns the (name, split text) pairs of `NAME=SPLIT,NAME=SPLIT`.

  Args:
    text: the definitions; '' for none.
    key: where they come from, for the message.

  Raises:
    InputError: a definition has another form.
  """
  pairs = []
  for item in filter(None, (item.strip() for item in text.split(","))):
    match = _DEFINITION.fullmatch(item)
    if not match:
      raise InputError(
        f"{key}: {item!r} is not NAME=SPLIT, such as val=train[90%:]"
      )
    pairs.append((match[1], match[2]))
  return tuple(pairs)


def parse(
  text: str,
  split_sizes: Mapping[str, int],
  *,
  defined: Sequence[tuple[str, str]] = (),
  percent_floor: bool = False,
) -> list[Piece]:
  """Resolves a split text to ranges of examples, in the order of the text.

  Args:
    text: split names joined by `+`, each with an optional slice whose bounds
      are both counts or both percentages; negative ones count from the end.
    split_sizes: the number of examples of each split that exists.
    defined: names for parts, of `parse_definitions`.
    percent_floor: percentages round down, not to the closest count.

  Raises:
    InputError: the text, or a definition it uses, is malformed, names a split
      that does not exist, reaches beyond its end or selects nothing.
  """
  return _parse(text, _Names(split_sizes, defined, percent_floor), text)


@dataclasses.dataclass(frozen=True)
class _Names:
  """What a split text may name."""

  sizes: Mapping[str, int]
  defined: Sequence[tuple[str, str]]
  percent_floor: bool

  def __iter__(self) -> Iterator[str]:
    names = [*self.sizes, *(name for name, _ in self.defined)]
    return iter(dict.fromkeys(names))

  def whole(self, name: str) -> list[Piece]:
    """Returns what a name stands for: its last definition, if any."""
    for i, (defined, text) in reversed(list(enumerate(self.defined))):
      if defined == name:
        before = dataclasses.replace(self, defined=self.defined[:i])
        return _parse(text, before, f"{name}={text}")
    return [Piece(name, 0, self.sizes[name])]


def _parse(text: str, names: _Names, shown: str) -> list[Piece]:
  return [
    piece
    for part in text.split("+")
    for piece in _parse_part(part.strip(), shown, names)
  ]


def _parse_part(part: str, text: str, names: _Names) -> list[Piece]:
  match = _PART.fullmatch(part)
  if not match:
    raise InputError(
      f"split {text!r}: {part!r} is not like train, train[:98%] or train[5:10]"
    )
  split, *bounds = match.groups()
  if split not in names:
    raise InputError(
      f"split {text!r}: there is no {split!r}; "
      f"the splits are {', '.join(names)}"
    )
  whole = names.whole(split)
  size = sum(piece.stop - piece.start for piece in whole)
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
  floor = names.percent_floor
  start = _position(first, size, text, floor) if first else 0
  stop = _position(last, size, text, floor) if last else size
  if start >= stop:
    raise InputError(
      f"split {text!r}: {part!r} selects none of the {size} examples"
    )
  return _cut(whole, start, stop)


def _cut(pieces: list[Piece], start: int, stop: int) -> list[Piece]:
  """Returns examples [start, stop) of the pieces laid end to end."""
  cut, offset = [], 0
  for piece in pieces:
    size = piece.stop - piece.start
    first, last = max(start - offset, 0), min(stop - offset, size)
    if first < last:
      cut.append(Piece(piece.split, piece.start + first, piece.start + last))
    offset += size
  return cut


def _position(
  bound: re.Match[str], size: int, text: str, percent_floor: bool
) -> int:
  count, percent = bound.groups()
  if count:
    offset = int(count)
  elif percent_floor:
    # Exact: floats would put 32.3 % of 1000 at 322.
    offset = int(fractions.Fraction(percent) * size / 100)
  else:
    # TFDS rounds a percentage to the closest count; so do we, for the same
    # examples as other code bases with the same text.
    offset = round(float(percent) * size / 100)
  if abs(offset) > size:
    raise InputError(
      f"split {text!r}: {bound[0]} reaches beyond the {size} examples"
    )
  return offset if not bound[0].startswith("-") else size + offset
