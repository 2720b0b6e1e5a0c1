"""Reads lists of class names and checks a data set's classes against them.

Weights know their classes by number alone: trained on a data set prepared in
another order, the outputs of a network mean something else.
"""

from collections.abc import Sequence

from etils import epath

from bit_jax.errors import InputError, some


def read(path: str, key: str) -> tuple[str, ...]:
  """Reads a file with one class name per line.

  Args:
    path: A UTF-8 text file; empty lines at its end are ignored.
    key: The flag or config key that names the file, for messages.

  Returns:
    The names, in the order of the file.

  Raises:
    InputError: The file cannot be read, or has an empty line.
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
  """Checks that a data set's classes are those of a list, in the same order.

  Args:
    names: Class names of the data set.
    wanted: Class names of the list.
    what: Name of both in the message, e.g. `tiny train and names.txt`.

  Raises:
    InputError: The names or their order differ.
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
