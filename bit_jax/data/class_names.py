"""Lists of class names in files, and whether a data set has them in order.

Weights know their classes by number alone, so a data set prepared in another
order gives a network whose outputs mean something else.
"""

from collections.abc import Sequence

from etils import epath

from bit_jax.errors import InputError, some


def read(path: str, key: str) -> tuple[str, ...]:
  """Reads one name a line.

  Args:
    path: a UTF-8 text file; empty lines at its end do not count.
    key: the flag or config key that named it, for messages.

  Raises:
    InputError: the file cannot be read, or has an empty line.
  """
  try:
    text = epath.Path(path).read_text()
  except (OSError, UnicodeDecodeError) as e:
    raise InputError(f"{key}={path} cannot be read: {e}") from e
  names = tuple(line.strip() for line in text.rstrip().splitlines())
  if not all(names):
    raise InputError(f"{key}={path}: line {names.index('') + 1} is empty")
  return names


def check(names: Sequence[str], wanted: Sequence[str], what: str) -> None:
  """Raises InputError unless a data set's classes are the wanted ones in order.

  Args:
    names: of the data set.
    wanted: as in the list.
    what: the two, for the message, e.g. `tiny train and names.txt`.
  """
  if tuple(names) == tuple(wanted):
    return
  missing, extra = set(wanted) - set(names), set(names) - set(wanted)
  if missing or extra or len(names) != len(wanted):
    only = [
      f"{len(few)} ({some(map(repr, few))}) only in the {where}"
      for few, where in ((missing, "list"), (extra, "data"))
      if few
    ]
    raise InputError(
      f"{what} have different classes: {len(names)} and {len(wanted)}; "
      f"{', '.join(only) or 'the same names, some of them repeated'}"
    )
  pairs = zip(names, wanted, strict=True)
  i = next(i for i, (name, other) in enumerate(pairs) if name != other)
  raise InputError(
    f"{what} have the same classes in another order: class {i} is {names[i]!r} "
    f"in the data and {wanted[i]!r} in the list"
  )
