r"""Trains and evaluates one recipe.

  bit_jax train --config=NAME:key=value,... --workdir=DIR [--config.KEY=VALUE]
  bit_jax train --config=downstream:preset=quick,model=R14x0.25,dataset=digits \
      --workdir=/tmp/digits --config.seed=1

NAME is a recipe that comes with bit_jax (configs/NAME.py), or a Python file of
your own. The same command again resumes where it was stopped. With a --config,
--help lists its keys and their values.
"""

import difflib
import importlib
import json
import os
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from absl import app, flags
from ml_collections import config_flags

from bit_jax import progress
from bit_jax.errors import STOPPED, UsageError, exit_status, one_line
from bit_jax.recipe import config_files, load

# {verb: (module, what it does)}, in the order of a project. A verb only names a
# module, so that `bit_jax VERB` is `python -m MODULE`.
VERBS = {
  "train": ("bit_jax.main", "trains and evaluates one recipe"),
  "study": (
    "bit_jax.tools.study.__main__",
    "makes several runs and a table",
  ),
  "evaluate": ("bit_jax.tools.evaluate", "measures a classifier on any images"),
  "fewshot": ("bit_jax.tools.fewshot", "measures features from few examples"),
  "report": ("bit_jax.tools.report", "shows runs side by side on a page"),
  "convert": ("bit_jax.tools.convert", "converts weights between layouts"),
  "prepare": ("bit_jax.tools.prepare", "builds a TFDS set as it is read here"),
  "pack": (
    "bit_jax.tools.pack.__main__",
    "packs a folder of images as a set",
  ),
  "near_duplicates": (
    "bit_jax.tools.near_duplicates.__main__",
    "finds images that two sets share",
  ),
  "preflight": (
    "bit_jax.tools.preflight",
    "tells whether a run fits a device",
  ),
}

_CONFIG = config_flags.DEFINE_config_file(
  "config",
  None,
  "Recipe and its arguments, e.g. downstream:dataset=cifar10; any of its keys "
  "can be overridden with --config.KEY=VALUE. (required)",
)
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Folder for checkpoints, metrics and results. (required)"
)

_COORDINATOR = flags.DEFINE_string(
  "coordinator_address",
  "",
  "HOST:PORT of process 0, for processes started by hand; Slurm, Open MPI and "
  "TPU pods are recognized without it. (default: none)",
)
_NUM_PROCESSES = flags.DEFINE_integer(
  "num_processes",
  0,
  "Number of processes; only with --coordinator_address. (default: 1)",
)
_PROCESS_ID = flags.DEFINE_integer(
  "process_id",
  -1,
  "Index of this process, from 0; only with --coordinator_address. (default: "
  "none)",
)
_FLAGS = (_CONFIG, _WORKDIR, _COORDINATOR, _NUM_PROCESSES, _PROCESS_ID)


def _fail(message: object, code: int) -> NoReturn:
  print(f"error: {one_line(message)}", file=sys.stderr)
  sys.exit(code)


def _config_first(argv: Sequence[str]) -> list[str]:
  """Returns argv with --config=FILE before the overrides of its keys."""
  # ml_collections requires that order.
  configs, others = [], []
  words = iter(argv[1:])
  for word in words:
    flag, equals, value = word.partition("=")
    if flag not in ("--config", "-config"):
      others.append(word)
    elif value := value if equals else next(words, ""):
      configs.append(f"--config={config_files.find(value)}")
  return [*argv[:1], *configs, *others]


def _parse_flags(argv: Sequence[str]) -> list[str]:
  """Parses flags; exits with one line if something is wrong with them."""
  wants_help = {"-h", "--h", "-help", "--help", "--helpshort"} & {*argv[1:]}
  argv = [arg for arg in argv if arg not in wants_help]
  try:
    sys.argv[:] = _config_first(argv)  # ml_collections reads it too.
    with config_files.importable():
      rest = flags.FLAGS(sys.argv)
    if wants_help:
      print(_help(), end="")
      sys.exit()
    for flag in (_CONFIG, _WORKDIR):
      if not flag.value:
        raise UsageError(f"--{flag.name} is missing; see --help")
    _CONFIG.value.to_dict()  # Raises here, not before, for a missing file.
    if len(rest) > 1:
      raise UsageError(f"unexpected argument {rest[1]!r}; see --help")
    return rest
  except load.CONFIG_ERRORS as e:
    _fail(*load.explain(e, sys.argv))


def _help() -> str:
  """Returns the text of --help, with the keys of the config if there is one."""
  lines = [__doc__ or "", "flags:"]
  for flag in _FLAGS:
    wrapped = textwrap.wrap(str(flags.FLAGS[flag.name].help), 74)
    lines += [f"  --{flag.name}=", *(f"      {line}" for line in wrapped)]
  if _CONFIG.value:
    lines += ["", "keys of the config and their values:"]
    lines += (f"  --config.{line}" for line in _flat(_CONFIG.value.to_dict()))
  return "\n".join([*lines, ""])


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[str]:
  """Yields KEY=VALUE for all keys that can be set."""
  for key, value in tree.items():
    if isinstance(value, dict):
      yield from _flat(value, f"{prefix}{key}.") if key != "resolved" else ()
    else:
      yield f"{prefix}{key}={value}"


def _list_of_verbs() -> str:
  rows = (f"  {verb:<16}{line}" for verb, (_, line) in VERBS.items())
  return "\n".join(
    (
      "usage: bit_jax COMMAND [FLAGS]",
      "",
      "Big Transfer (BiT): pre-train, fine-tune and use image classifiers.",
      "",
      *rows,
      "",
      "`bit_jax COMMAND --help` explains a command. Example:",
      "",
      "  bit_jax train --config=downstream:preset=quick,model=R14x0.25,"
      "dataset=digits \\",
      "      --workdir=/tmp/digits",
    )
  )


def main(argv: Sequence[str]) -> None:
  """Runs training; heavy imports wait until the flags were found good."""
  del argv
  started = time.monotonic()
  with progress.activity("importing"):
    import jax

    from bit_jax import train
    from bit_jax.parallel import hosts
    from bit_jax.preflight import parts
    from bit_jax.storage import cache, checkpoint

  if not flags.FLAGS["verbosity"].present:
    checkpoint.silence_orbax()

  def run() -> None:
    hosts.start(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    progress.say_before_next(f"imported in {time.monotonic() - started:.1f} s")
    cache.enable_compilation_cache()
    result = train.train_and_evaluate(
      _CONFIG.value, str(_WORKDIR.value), choose_parts=parts.choose
    )
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


def command() -> int:
  """Runs `bit_jax VERB ...`; returns its exit code."""
  verb, *rest = sys.argv[1:] or [""]
  if verb == "help" and rest:
    verb, *rest = rest[0], "--help"
  if verb in ("-h", "--help", "help"):
    print(_list_of_verbs())
    return 0
  if verb not in VERBS:
    close = difflib.get_close_matches(verb.replace("-", "_"), VERBS, n=1)
    found = f"unknown command {verb!r}" if verb else "a command is missing"
    found += f" (did you mean {close[0]}?)" if close else ""
    _fail(f"{found}: expected one of {', '.join(VERBS)}; see --help", 2)
  # Commands call themselves by it in their --help.
  sys.argv[:] = [f"bit_jax {verb}", *rest]
  if verb == "train":
    app.run(main, flags_parser=_parse_flags)
  return importlib.import_module(VERBS[verb][0]).main(rest)


if __name__ == "__main__":
  app.run(main, flags_parser=_parse_flags)
