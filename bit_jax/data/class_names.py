"""Reads lists of class names and checks a data set's classes against them.

Weights know their classes by number alone: trained on a data set prepared in
another order, the outputs of a network mean something else.
"""

from collections.abc import Sequence

from bit_jax.errors import InputError, some
from bit_jax.storage import files, user_paths


def read(path: str, key: str) -> tuple[str, ...]:
  """Reads a file with one class name per line.

  Args:
    path: A text file as for `files.read_text`; blanks around a name and empty
      lines at the end are ignored.
    key: The flag or config key that names the file, for messages.

  Returns:
    The names in the order of the file, in the form of `files.normal`.

  Raises:
    InputError: The file cannot be read, or has an empty line.
  """
  text = files.read_text(user_paths.expand(path), f"{key}={path}")
  lines = text.rstrip().split("\n")
  names = tuple(files.normal(line.strip()) for line in lines)
  if not any(names):
    raise InputError(f"{key}={path}: there are no class names in it")
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
