r"""Runs a study; writes tables and charts of the runs that are finished.

  bit_jax study --study=kshot:dataset=cifar10,init=BiT-M-R50x1 \
      --workdir=/tmp/kshot [--runs='1-shot*,5-shot*'] [--config.KEY=VALUE ...]

A study is a file with `get_study(arg)`: kshot, vtab, ablation and reproduction
come with bit_jax (configs/NAME.py), and FILE.py names one of your own. Each run
has a folder in the work directory. Started again, the command resumes where it
was stopped; other machines can make other runs in the same directory (--runs),
and --runs='' makes none. Runs whose data set is not prepared are named and
skipped; a run that fails ends the command. `--config.KEY=VALUE` as in training
is applied to every run.

After each run WORKDIR/study.json holds all results, study.md the tables and
study.html the tables and the learning curves.
"""

import copy
import fnmatch
import importlib.util
import json
import pathlib
import sys
import time
from collections.abc import Sequence

import ml_collections
from etils import epath

from bit_jax import progress, train
from bit_jax.data.sets import tfds_folders
from bit_jax.errors import InputError, UsageError, exit_status
from bit_jax.preflight import parts
from bit_jax.recipe import config_files, load, network
from bit_jax.report import study
from bit_jax.run import workdir_files
from bit_jax.storage import cache, checkpoint, user_paths
from bit_jax.tools import command_line
from bit_jax.tools.study import tables

log = progress.say


def load_study(spec: str) -> study.Study:
  """Returns the study that `NAME:key=value,...` names.

  Args:
    spec: The file, or the name of one of `configs/`, and its arguments.

  Raises:
    InputError: The arguments have a wrong value.
    UsageError: The file has no study, or its arguments are wrong.
  """
  path, _, arg = config_files.find(spec, "--study").partition(":")
  module_spec = importlib.util.spec_from_file_location("study_file", path)
  if not module_spec or not module_spec.loader:
    raise UsageError(f"--study={path}: expected a Python file")
  module = importlib.util.module_from_spec(module_spec)
  with config_files.importable():
    try:
      module_spec.loader.exec_module(module)
    except (ImportError, SyntaxError) as e:
      raise UsageError(f"--study={path} is no usable Python file: {e}") from e
    if not hasattr(module, "get_study"):
      raise UsageError(f"--study={path} has no get_study(arg)")
    return module.get_study(arg)


def missing_data(run: study.Run) -> str:
  """Returns the reason why a run's data set cannot be used, or ''."""
  data = run.config.data
  if data.name in ("glyphs", "digits") or data.name.startswith("folder:"):
    return ""
  try:
    tfds_folders.find(data.name, data.dir, any_version=data.any_version)
  except InputError as e:
    return str(e)
  return ""


def is_finished(
  config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> bool:
  """Returns True if a run of the same config is finished; reads no data."""
  stored = workdir / workdir_files.CONFIG
  if (
    not stored.exists()
    or workdir_files.read_result(epath.Path(workdir)) is None
  ):
    return False
  old = json.loads(stored.read_text())
  new = json.loads(network.as_stored(config, old).to_json())
  if any(old["data"][key] != new["data"][key] for key in ("name", "dir")):
    return False  # The run itself opens the data and compares it.
  changed = workdir_files.differences(old, new)
  return all(line.startswith("resolved.") for line in changed)


def make_run(run: study.Run, workdir: pathlib.Path) -> float:
  """Makes or resumes a run; returns the seconds it took.

  Raises:
    InputError: The run fails, or the run it starts from is not finished.
  """
  started = time.monotonic()
  config = copy.deepcopy(run.config)
  if run.init:
    if not (workdir / run.init / "params.npz").exists():
      raise InputError(f"{run.name} starts from {run.init}, which is not there")
    config.init.checkpoint = str((workdir / run.init).resolve())
  if config.data.subset_file:
    config.data.subset_file = str(
      workdir / user_paths.expand(config.data.subset_file)
    )
  if is_finished(config, workdir / run.name):
    log("is finished")
    return 0.0
  try:
    train.train_and_evaluate(
      config, workdir / run.name, choose_parts=parts.choose
    )
  except InputError as e:
    raise InputError(f"{run.name}: {e}") from e
  return time.monotonic() - started


def run_study(
  spec: study.Study,
  workdir: pathlib.Path,
  *,
  runs: str = "*",
  overrides: Sequence[str] = (),
) -> str:
  """Makes the runs whose names match and returns the tables as Markdown.

  Args:
    spec: The study.
    workdir: The folder that holds, or will hold, a folder for each run.
    runs: Patterns of names, separated by commas; '' for no run.
    overrides: Arguments `--config.key=value`, applied to every run.

  Raises:
    InputError: A run fails, a pattern matches no run, no data set is prepared,
      or `workdir` belongs to another study.
    UsageError: An override is wrong.
  """
  for run in spec.runs:
    load.override(run.config, overrides)
  names, chosen = [run.name for run in spec.runs], set()
  for pattern in filter(None, (p.strip() for p in runs.split(","))):
    found = fnmatch.filter(names, pattern)
    if not found:
      raise InputError(f"--runs={pattern} matches none of {', '.join(names)}")
    chosen.update(found)
  stored = workdir / "study.json"
  tables.read_secs(
    stored, spec.title
  )  # Fails before the first run, not after it.
  skipped, todo = {}, []
  for run in (run for run in spec.runs if run.name in chosen):
    reason = missing_data(run)
    if not reason and run.init in skipped:
      reason = f"{run.init} is skipped"
    if reason:
      skipped[run.name] = reason
      log(f"skipped {run.name}: {reason}")
    else:
      todo.append(run)
  if skipped and not todo:
    raise InputError(
      "no run of the study has its data set prepared; "
      f"{next(iter(skipped.values()))}"
    )
  began, made = time.monotonic(), 0
  for i, run in enumerate(todo, 1):
    log(
      f"\n{run.name} (run {i} of {len(todo)}"
      f"{_time_left(began, made, len(todo) - i + 1)})"
    )
    took = make_run(run, workdir)
    made += took > 0
    if not tables.read_results([run], workdir):
      raise InputError(f"{run.name} has ended without a result")
    # It is read again because another machine may have added its runs.
    secs = tables.read_secs(stored, spec.title)
    secs[run.name] = secs.get(run.name, 0.0) + took
    tables.write_tables(spec, workdir, secs)
  return tables.write_tables(
    spec, workdir, tables.read_secs(stored, spec.title)
  )


def _time_left(began: float, made: int, left: int) -> str:
  """Returns an estimate from the runs made so far, for a line; '' before."""
  if not made:
    return ""
  secs = (time.monotonic() - began) / made * left
  return f", about {progress.duration(secs)} left"


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line and returns the exit status."""
  parser = command_line.Parser("bit_jax.tools.study", __doc__)
  parser.add_argument(
    "--study",
    required=True,
    metavar="NAME:ARGS",
    help="name or file of the study, and its arguments key=value,...",
  )
  parser.add_argument(
    "--workdir",
    required=True,
    metavar="DIR",
    type=user_paths.local,
    help="folder that holds, or will hold, a folder for each run",
  )
  parser.add_argument(
    "--runs", default="*", metavar="GLOB,...", help="names of the runs to make"
  )
  args, overrides = parser.parse_known_args(argv)
  checkpoint.silence_orbax()
  cache.enable_compilation_cache()

  def run() -> None:
    spec = load_study(args.study)
    text = run_study(spec, args.workdir, runs=args.runs, overrides=overrides)
    print(text, end="", flush=True)
    log(f"see {args.workdir / 'study.html'}")

  return exit_status(run)


if __name__ == "__main__":
  sys.exit(main())
