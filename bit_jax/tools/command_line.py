"""The parser of a command's flags, the same for all tools and scripts."""

import argparse
from collections.abc import Callable
from typing import Any, NoReturn

from bit_jax.errors import did_you_mean, nearest


class _Help(
  argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter
):
  """Keeps the lines of a docstring; names the defaults that say something."""

  def _get_help_string(self, action: argparse.Action) -> str | None:
    # Empty texts, False and None mean "not given"; some flags say more.
    if not action.default or "(default" in (action.help or ""):
      return action.help
    return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
  """Parses the flags of `python -m MODULE`; none can be abbreviated.

  Args:
    module: The module of the command.
    docstring: Its docstring, which --help shows above the flags.
  """

  def __init__(self, module: str, docstring: str | None):
    super().__init__(
      prog=f"python -m {module}",
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
