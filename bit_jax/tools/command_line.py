"""The parser of a command's flags, the same for all tools and scripts."""

import argparse
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from bit_jax.errors import did_you_mean, nearest

# The help of --data_dir.
DATA_DIR = (
  "folder of the TFDS sets (default: $TFDS_DATA_DIR, or else "
  "~/tensorflow_datasets)"
)


class _Help(argparse.RawDescriptionHelpFormatter):
  """Keeps the lines of a docstring; names the default of each flag."""

  def _get_help_string(self, action: argparse.Action) -> str | None:
    text = action.help or ""
    # Some flags say more; switches are off, and arguments have no default.
    if "(default" in text or not action.option_strings or action.nargs == 0:
      return text
    if action.required:
      return f"{text} (required)"
    # Empty texts and None mean "not given".
    if action.default in (None, ""):
      return f"{text} (default: none)"
    return f"{text} (default: %(default)s)"


class Parser(argparse.ArgumentParser):
  """Parses the flags of a command; none can be abbreviated.

  Args:
    module: The module of the command, `python -m MODULE`.
    docstring: Its docstring, which --help shows above the flags.
  """

  def __init__(self, module: str, docstring: str | None):
    started = sys.argv[0]
    super().__init__(
      # The console command leaves its verb there.
      prog=started if started.startswith("bit_jax ") else f"python -m {module}",
      description=docstring,
      formatter_class=_Help,
      allow_abbrev=False,
    )

  def error(self, message: str) -> NoReturn:
    """Exits with 2; names the nearest flag to an unknown one."""
    _, unknown, rest = message.partition("unrecognized arguments: --")
    known = [name.removeprefix("--") for name in self._option_string_actions]
    name = rest.split("=")[0].split(" ")[0]
    meant = nearest(name, known) if unknown else ()
    super().error(message + did_you_mean(f"--{flag}" for flag in meant))


def at_least(least: float) -> Callable[[str], Any]:
  """Returns the `type` of a flag: a number from `least`, of the same type."""

  def parse(text):
    try:
      number = type(least)(text)
    except ValueError:
      number = least - 1
    if not least <= number < 1e12:
      raise argparse.ArgumentTypeError(f"expected {least} or more")
    return number

  return parse
