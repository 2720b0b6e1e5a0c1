"""Reads configs: a file, its arguments and the overrides of its keys."""

import copy
import itertools
import re
from collections.abc import Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags

from bit_jax.errors import (
  UNAVAILABLE,
  InputError,
  UnavailableError,
  UsageError,
  is_machine_fault,
)
from bit_jax.recipe import config_files, words
from bit_jax.storage import user_paths

# A ConfigDict with the keys of configs/common.py. ConfigDict itself types each
# attribute as a union of everything that a config may hold, which no code can
# work with.
Config = Any

# Removed keys that older commits had: (the value without effect, the message
# that says what to use instead).
GONE = {
  "data.splits": (
    "",
    "split definitions are gone: use slices of slices, such as "
    "train[90%:][:200], in config.data.train_split and config.data.eval_splits",
  )
}

# Keys whose value is a path, if it is not ''.
_PATHS = (
  *("data.dir", "data.class_list", "data.subset_file"),
  *("init.checkpoint", "distill.teacher"),
)
# Keys whose value names data sets, separated by commas.
_DATASETS = ("data.name", "eval.fewshot")

# Errors that config files and ml_collections raise for bad values. UsageError
# and InputError are ValueErrors.
CONFIG_ERRORS = (
  *(flags.Error, OSError, LookupError, TypeError, ValueError),
  *(AttributeError, ImportError, SyntaxError),
)


def get(config: Config, key: str) -> Any:
  """Returns the value of a key such as `optim.lr`."""
  for part in key.split("."):
    config = config[part]
  return config


def expand_paths(config: Config) -> Config:
  """Returns a copy of a config whose paths are as `user_paths.expand` says.

  Raises:
    InputError: A path cannot be expanded; the message names the key.
  """
  config = copy.deepcopy(config)
  for key in (*_PATHS, *_DATASETS):
    section, _, name = key.partition(".")
    value = config[section][name]
    try:
      if key in _DATASETS:
        names = map(user_paths.expand_dataset, value.split(","))
        config[section][name] = ",".join(names)
      else:
        config[section][name] = user_paths.expand(value)
    except InputError as e:
      raise InputError(f"config.{key}={value}: {e}") from e
  return config


def same_value(key: str, one: Any, other: Any) -> bool:
  """Returns True if two values of a key mean the same, paths as well.

  Args:
    key: The key, e.g. `init.checkpoint`.
    one: Its value in one config.
    other: Its value in another one.
  """
  if not isinstance(one, str) or not isinstance(other, str):
    return one == other
  if key in _PATHS:
    return user_paths.same_place(one, other)
  if key not in _DATASETS:
    return one == other
  pairs = itertools.zip_longest(one.split(","), other.split(","), fillvalue="")
  return all(user_paths.same_dataset(a.strip(), b.strip()) for a, b in pairs)


def explain(
  error: BaseException, argv: Sequence[str] = (), config: Config = None
) -> tuple[str, int]:
  """Returns the message for an error in the flags, and the exit code.

  Args:
    error: What parsing them raised.
    argv: The command line, for what was meant by an unknown key or flag.
    config: The config without overrides; None: of the file that argv names.
  """
  cause: BaseException | None = error
  ours = None
  # ml_collections wraps our error in one of the same type whose text is a whole
  # traceback; only the innermost has our message.
  while cause:
    if isinstance(cause, InputError | UsageError):
      ours = cause
    cause = cause.__cause__ or cause.__context__
  if ours:
    code = 1 if isinstance(ours, InputError) else 2
    return str(ours), UNAVAILABLE if is_machine_fault(ours) else code
  if isinstance(error, ImportError | SyntaxError):
    return f"--config is no usable Python file: {error}", 2
  if isinstance(error, OSError):
    text = f"--config cannot be read: {str(error).rsplit(']', 1)[-1]}"
    return text, UNAVAILABLE if is_machine_fault(error) else 2
  if isinstance(error, AttributeError) and error.name == "get_config":
    return _no_recipe(error.obj), 2
  if config is None:
    config = _without_overrides(argv)
  if config is not None:
    if isinstance(error, flags.UnrecognizedFlagError):
      name = error.flagname.lstrip("-").partition("=")[0]
      known = [*flags.FLAGS, "config"]
      return words.unknown_flag(name, known, config), 2
    if message := _about_overrides(config, argv):
      return message, 2
  if isinstance(error, LookupError | AttributeError):
    key = error.args[0]
    while isinstance(key, BaseException):
      key = key.args[0]
    for gone, (_, successor) in GONE.items():
      if str(key).startswith(repr(gone.rpartition(".")[-1])):
        return f"unknown config key {gone}: {successor}", 2
    return f"unknown config key {key}".replace("\nDid", "; did", 1), 2
  return str(error), 2


def _without_overrides(argv: Sequence[str]) -> Config:
  """Returns the config of the file that a command line names, or None."""
  files = [arg for arg in argv if arg.startswith("--config=")]
  parser = flags.FlagValues()
  holder = config_flags.DEFINE_config_file(
    "config", None, flag_values=parser, sys_argv=["config", *files]
  )
  try:
    with config_files.importable():
      parser(["config", *files])
    holder.value.to_dict()
  except CONFIG_ERRORS:
    return None  # Another error is to be shown.
  return holder.value


def _about_overrides(config: Config, argv: Sequence[str]) -> str:
  """Returns the message for the first override that cannot work, or ''."""
  for arg in argv:
    match = re.match(r"--?(?:no)?config\.([^=]*)(?:=(.*))?", arg, re.DOTALL)
    if not match:
      continue
    key, value = match[1], match[2]
    if key in GONE:
      return f"unknown config key {key}: {GONE[key][1]}"
    found: Any = config
    for part in re.sub(r"\[.*?\]", "", key).split("."):
      if not hasattr(found, "items"):
        name = key.rpartition(".")[0]
        return f"unknown config key {key}: config.{name} is no section"
      if part not in found:
        return words.unknown_key(key, config)
      found = found[part]
    if hasattr(found, "items"):
      keys = words.keys_of(key, config)
      return f"--config.{key} is a section and not a key: {keys}"
    if value is not None and not _has_type(value, found):
      kind = _KINDS[type(found)]
      return f"--config.{key}={value}: expected {kind}"
  return ""


_KINDS = {int: "a whole number", float: "a number", bool: "true or false"}


def _has_type(text: str, like: Any) -> bool:
  """Returns False for a text that is no number like another one."""
  if isinstance(like, bool):
    return text.lower() in ("true", "t", "1", "false", "f", "0")
  try:
    if isinstance(like, int):
      int(text, 0)  # Also 0x10, as flags take it.
    elif isinstance(like, float):
      float(text)
  except ValueError:
    return False
  return True


def _no_recipe(module: Any) -> str:
  """Returns the message for a config file without get_config(arg)."""
  path = module.__file__
  if not hasattr(module, "get_study"):
    return f"--config={path} has no get_config(arg)"
  return (
    f"--config={path} is a study of several runs: bit_jax study --study={path} "
    "--workdir=DIR makes them"
  )


def override(config: Config, arguments: Sequence[str]) -> None:
  """Applies `--config.key=value` to a config, as the command line does.

  Raises:
    UsageError: An argument is not an override, or its key or value is wrong.
  """
  argv = ["override", *arguments]
  parser = flags.FlagValues()
  try:
    config_flags.DEFINE_config_dict(
      "config", config, flag_values=parser, sys_argv=argv
    )
    rest = parser(argv)[1:]
  except CONFIG_ERRORS as e:
    raise UsageError(explain(e, arguments, config)[0]) from e
  if rest:
    raise UsageError(f"unexpected argument {rest[0]!r}; see --help")


def load_config(path: str, overrides: Sequence[str]) -> Config:
  """Returns the config of a file, with overrides applied.

  Args:
    path: The file, or the name of one of `configs/`, and its arguments:
      `NAME:key=value,...`.
    overrides: Arguments such as `--config.key=value`.

  Raises:
    InputError: A value is wrong.
    UsageError: The file, an argument or a key is wrong.
    UnavailableError: The file cannot be read at the moment.
  """
  argv = ["load_config", f"--config={config_files.find(path)}"]
  parser = flags.FlagValues()
  holder = config_flags.DEFINE_config_file(
    "config", None, flag_values=parser, sys_argv=argv
  )
  try:
    with config_files.importable():
      parser(argv)
    config: Any = holder.value
    config.to_dict()  # Raises here, not before, for a missing file.
  except CONFIG_ERRORS as e:
    message, code = explain(e, argv)
    kinds = {1: InputError, 2: UsageError, UNAVAILABLE: UnavailableError}
    raise kinds[code](message) from e
  override(config, overrides)
  return expand_paths(config)
