"""Trains and evaluates one recipe.

python -m bit_jax.main --config=configs/NAME.py:key=value,... --workdir=DIR
"""

import os
import sys
import time
from collections.abc import Sequence
from typing import Any, NoReturn

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from bit_jax.errors import (
  STOPPED,
  InputError,
  UsageError,
  exit_status,
  one_line,
)

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
  "HOST:PORT of process 0, where several processes are started by hand; Slurm, "
  "Open MPI and TPU pods are recognized without.",
)
_NUM_PROCESSES = flags.DEFINE_integer(
  "num_processes", 0, "How many there are; with --coordinator_address."
)
_PROCESS_ID = flags.DEFINE_integer(
  "process_id", -1, "Which one this is, from 0; with --coordinator_address."
)

# What config files and ml_collections raise for bad values; UsageError and
# InputError are ValueErrors.
_CONFIG_ERRORS = (
  *(flags.Error, OSError, LookupError, TypeError, ValueError),
  *(AttributeError, ImportError, SyntaxError),
)


def _fail(message: object, code: int) -> NoReturn:
  print(f"error: {one_line(message)}", file=sys.stderr)
  sys.exit(code)


def explain(error: BaseException) -> tuple[str, int]:
  """Returns what to print for an error in the flags, and the exit code."""
  cause: BaseException | None = error
  ours = None
  # ml_collections wraps ours in one of the same type with a whole traceback:
  # the innermost is the message.
  while cause:
    if isinstance(cause, InputError | UsageError):
      ours = cause
    cause = cause.__cause__ or cause.__context__
  if ours:
    return str(ours), 1 if isinstance(ours, InputError) else 2
  if isinstance(error, ImportError | SyntaxError):
    return f"--config is no usable Python file: {error}", 2
  if isinstance(error, OSError):
    return f"--config cannot be read: {str(error).rsplit(']', 1)[-1]}", 2
  if isinstance(error, LookupError | AttributeError):
    key = error.args[0]
    while isinstance(key, BaseException):
      key = key.args[0]
    return f"unknown config key {key}".replace("\nDid", "; did", 1), 2
  return str(error), 2


def _config_first(argv: Sequence[str]) -> list[str]:
  """Returns argv with --config=... before the overrides of its keys."""
  # ml_collections insists on that order.
  return [
    *argv[:1],
    *sorted(argv[1:], key=lambda arg: not arg.startswith("--config=")),
  ]


def override(config: ConfigDict, arguments: Sequence[str]) -> None:
  """Applies `--config.key=value` to a config, as the command line does.

  Raises:
    UsageError: an argument is no such override, or its key or value is wrong.
  """
  argv = ["override", *arguments]
  parser = flags.FlagValues()
  try:
    config_flags.DEFINE_config_dict(
      "config", config, flag_values=parser, sys_argv=argv
    )
    rest = parser(argv)[1:]
  except _CONFIG_ERRORS as e:
    raise UsageError(explain(e)[0]) from e
  if rest:
    raise UsageError(f"unexpected argument {rest[0]!r}; see --help")


def load_config(path: str, overrides: Sequence[str]) -> ConfigDict:
  """Returns a config as the command line gives it.

  Args:
    path: `configs/NAME.py:key=value,...`.
    overrides: `--config.key=value`.

  Raises:
    InputError: a value is wrong.
    UsageError: the file, an argument or a key is.
  """
  argv = ["load_config", f"--config={path}"]
  parser = flags.FlagValues()
  holder = config_flags.DEFINE_config_file(
    "config", None, flag_values=parser, sys_argv=argv
  )
  try:
    parser(argv)
    config: Any = holder.value
    config.to_dict()  # A file that is not there is an error from here.
  except _CONFIG_ERRORS as e:
    message, code = explain(e)
    raise (InputError if code == 1 else UsageError)(message) from e
  override(config, overrides)
  return config


def _parse_flags(argv: Sequence[str]) -> list[str]:
  """Parses flags; whatever is wrong with them ends in one line."""
  sys.argv[:] = _config_first(sys.argv)  # It looks there too.
  try:
    rest = flags.FLAGS(_config_first(argv))
    for name, flag in (("config", _CONFIG), ("workdir", _WORKDIR)):
      if not flag.value:
        raise UsageError(f"--{name} is missing; see --help")
    _CONFIG.value.to_dict()  # A file that is not there is an error from here.
    if len(rest) > 1:
      raise UsageError(f"unexpected argument {rest[1]!r}; see --help")
    return rest
  except _CONFIG_ERRORS as e:
    _fail(*explain(e))


def main(argv: Sequence[str]) -> None:
  """Hands over to train; imports what is heavy only once flags are good."""
  del argv
  started = time.monotonic()
  import jax

  from bit_jax import train
  from bit_jax.parallel import hosts
  from bit_jax.storage import cache, checkpoint

  if not flags.FLAGS["verbosity"].present:
    checkpoint.silence_orbax()

  def run() -> None:
    hosts.start(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    print(f"imported in {time.monotonic() - started:.1f} s", flush=True)
    cache.enable_compilation_cache()
    train.train_and_evaluate(_CONFIG.value, str(_WORKDIR.value))

  status = exit_status(run)
  if status not in (0, STOPPED) and jax.process_count() > 1:
    # A usual exit waits minutes for the other processes, which wait for this.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
  sys.exit(status)


if __name__ == "__main__":
  app.run(main, flags_parser=_parse_flags)
