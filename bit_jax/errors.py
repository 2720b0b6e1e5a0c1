"""The two errors that end a command in one clear line."""


class InputError(ValueError):
  """Bad input from the user; the command prints the message and exits 1."""


class UsageError(ValueError):
  """An unknown flag, config key or argument; the command exits 2."""
