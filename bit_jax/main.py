"""Trains and evaluates one recipe.

python -m bit_jax.main --config=configs/NAME.py:key=value,... --workdir=DIR
"""

import sys
from collections.abc import Sequence

from absl import app, flags, logging
from ml_collections import config_flags

from bit_jax.errors import InputError, UsageError

_CONFIG = config_flags.DEFINE_config_file(
  "config",
  None,
  "Recipe, e.g. configs/downstream.py:dataset=cifar10; any of its keys can be "
  "overridden with --config.key=value.",
)
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Folder for checkpoints, metrics and results."
)


def _fail(message: object, code: int) -> None:
  print(f"error: {' '.join(str(message).split())}", file=sys.stderr)
  sys.exit(code)


def _parse_flags(argv: Sequence[str]) -> list[str]:
  """Parses flags; whatever is wrong with them ends in one line."""
  try:
    rest = flags.FLAGS(list(argv))
    for name, flag in (("config", _CONFIG), ("workdir", _WORKDIR)):
      if not flag.value:
        raise UsageError(f"--{name} is missing; see --help")
    if len(rest) > 1:
      raise UsageError(f"unexpected argument {rest[1]!r}; see --help")
    return rest
  except InputError as e:
    _fail(e, 1)
  except FileNotFoundError as e:
    _fail(f"--config: no such file {e.filename!r}", 2)
  # ml_collections reports unknown keys and wrong types with these.
  except (flags.Error, UsageError, LookupError, TypeError, ValueError) as e:
    _fail(e, 2)
  except AttributeError as e:
    _fail(f"unknown config key: {e}", 2)
  raise AssertionError("unreachable")


def main(argv: Sequence[str]) -> None:
  """Hands over to train; imports what is heavy only once flags are good."""
  del argv
  if not flags.FLAGS["verbosity"].present:
    logging.set_verbosity(logging.WARNING)  # Orbax tells its whole story else.
  from bit_jax import parallel, train

  parallel.enable_compilation_cache()
  try:
    train.train_and_evaluate(_CONFIG.value, str(_WORKDIR.value))
  except InputError as e:
    _fail(e, 1)


if __name__ == "__main__":
  app.run(main, flags_parser=_parse_flags)
