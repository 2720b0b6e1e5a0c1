"""The command that trains and evaluates one recipe.

python -m bit_jax.main --config=configs/NAME.py:key=value,... --workdir=DIR
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from typing import NoReturn

from absl import app, flags
from ml_collections import config_flags

from bit_jax import progress
from bit_jax.errors import STOPPED, UsageError, exit_status, one_line
from bit_jax.recipe import load
from bit_jax.storage import user_paths

_CONFIG = config_flags.DEFINE_config_file(
  "config",
  None,
  "Recipe, e.g. configs/downstream.py:dataset=cifar10; any of its keys can be "
  "overridden with --config.key=value.",
)
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Folder for checkpoints, metrics and results."
)

_COORDINATOR = flags.DEFINE_string(
  "coordinator_address",
  "",
  "HOST:PORT of process 0, for processes started by hand; Slurm, Open MPI and "
  "TPU pods are recognized without it.",
)
_NUM_PROCESSES = flags.DEFINE_integer(
  "num_processes", 0, "Number of processes; only with --coordinator_address."
)
_PROCESS_ID = flags.DEFINE_integer(
  "process_id",
  -1,
  "Index of this process, from 0; only with --coordinator_address.",
)


def _fail(message: object, code: int) -> NoReturn:
  print(f"error: {one_line(message)}", file=sys.stderr)
  sys.exit(code)


def _config_first(argv: Sequence[str]) -> list[str]:
  """Returns argv with --config=... before the overrides of its keys."""
  # ml_collections requires that order.
  start = "--config="
  configs = [arg for arg in argv[1:] if arg.startswith(start)]
  others = [arg for arg in argv[1:] if not arg.startswith(start)]
  files = [user_paths.expand(arg.removeprefix(start)) for arg in configs]
  return [*argv[:1], *(start + file for file in files), *others]


def _parse_flags(argv: Sequence[str]) -> list[str]:
  """Parses flags; exits with one line if something is wrong with them."""
  try:
    sys.argv[:] = _config_first(sys.argv)  # ml_collections reads it too.
    rest = flags.FLAGS(_config_first(argv))
    for name, flag in (("config", _CONFIG), ("workdir", _WORKDIR)):
      if not flag.value:
        raise UsageError(f"--{name} is missing; see --help")
    _CONFIG.value.to_dict()  # Raises here, not before, for a missing file.
    if len(rest) > 1:
      raise UsageError(f"unexpected argument {rest[1]!r}; see --help")
    return rest
  except load.CONFIG_ERRORS as e:
    _fail(*load.explain(e))


def main(argv: Sequence[str]) -> None:
  """Runs training; heavy imports wait until the flags were found good."""
  del argv
  started = time.monotonic()
  with progress.activity("importing"):
    import jax

    from bit_jax import train
    from bit_jax.parallel import hosts
    from bit_jax.storage import cache, checkpoint

  if not flags.FLAGS["verbosity"].present:
    checkpoint.silence_orbax()

  def run() -> None:
    hosts.start(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    progress.say_before_next(f"imported in {time.monotonic() - started:.1f} s")
    cache.enable_compilation_cache()
    result = train.train_and_evaluate(_CONFIG.value, str(_WORKDIR.value))
    # All else is on stderr; on a terminal, the last line there says the same.
    if jax.process_index() == 0 and not sys.stdout.isatty():
      print(json.dumps(result), flush=True)

  status = exit_status(run)
  if status not in (0, STOPPED) and jax.process_count() > 1:
    # A normal exit waits minutes for the other processes, which wait for this
    # one.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
  sys.exit(status)


if __name__ == "__main__":
  app.run(main, flags_parser=_parse_flags)
