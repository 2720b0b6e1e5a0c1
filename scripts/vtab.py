"""Fine-tunes one model on every VTAB-1k task that is prepared.

  python -m scripts.vtab --model=R50x1 --init=BiT-M-R50x1.npz \\
      --data_dir=/data/tfds --workdir=/tmp/vtab [--tasks=dtd,svhn]

One run of configs/vtab.py for each task, in WORKDIR/TASK; tasks of the same
head and image size share one compiled step. Any `--config.key=value` of
bit_jax.main is applied to all of them. Tasks whose data set is not prepared are
named and skipped. Stopped and started again, it goes on where it was; it stops
at the first task that fails.

After each task WORKDIR/vtab.json and WORKDIR/vtab.md hold what there is so far:
accuracies, the mean of each group and the mean of the 19 tasks. A mean that
lacks tasks is marked as partial.
"""

import argparse
import functools
import json
import pathlib
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from bit_jax import train
from bit_jax.data.sets import tfds_folders
from bit_jax.errors import InputError, exit_status
from bit_jax.recipe import load
from bit_jax.storage import cache, checkpoint, files
from configs import vtab

TABLE = "vtab.json"


def task_config(
  task: str, args: argparse.Namespace, overrides: Sequence[str]
) -> ml_collections.ConfigDict:
  """Returns the config of one task."""
  config = vtab.get_config(
    f"task={task},preset={args.preset},model={args.model},"
    f"data_dir={args.data_dir}"
  )
  config.init.checkpoint = args.init
  load.override(config, overrides)
  return config


def summarize(accuracies: Mapping[str, float]) -> dict[str, Any]:
  """Returns the means of the groups and of all tasks.

  Args:
    accuracies: of the tasks that are finished, 0 to 1.

  Returns:
    {natural, specialized, structured, all}, each with `mean` (None without any
    task), `tasks` (how many it is of), `of` (how many there are) and `partial`.
  """
  groups = {
    group: [name for name, task in vtab.TASKS.items() if task.group == group]
    for group in vtab.GROUPS
  }
  groups["all"] = list(vtab.TASKS)
  summary = {}
  for group, names in groups.items():
    found = [accuracies[name] for name in names if name in accuracies]
    summary[group] = {
      "mean": statistics.fmean(found) if found else None,
      "tasks": len(found),
      "of": len(names),
      "partial": len(found) < len(names),
    }
  return summary


def markdown(table: Mapping[str, Any]) -> str:
  """Returns what vtab.json holds as a Markdown table, accuracies in %."""
  rows = [
    f"VTAB-1k, {table['model']} from {table['init'] or 'random weights'}, "
    f"preset {table['preset']}: accuracy in %",
    "",
    "| task | group | accuracy |",
    "|:---|:---|---:|",
  ]
  for name, task in vtab.TASKS.items():
    value = table["accuracy"].get(name)
    if value is not None:
      shown = f"{100 * value:.2f}"
    else:
      shown = "not prepared" if name in table["skipped"] else "not run"
    rows.append(f"| {name} | {task.group} | {shown} |")
  for group, row in table["means"].items():
    value = "none" if row["mean"] is None else f"{100 * row['mean']:.2f}"
    if row["partial"]:
      value += " (partial)"
    rows.append(
      f"| **mean** of {row['tasks']} of {row['of']} | {group} | {value} |"
    )
  return "\n".join(rows) + "\n"


def read_table(
  path: pathlib.Path, args: argparse.Namespace
) -> dict[str, float]:
  """Returns the accuracies an earlier call left, {} if there was none.

  Raises:
    InputError: they are another model's.
  """
  if not path.exists():
    return {}
  try:
    old = json.loads(path.read_text())
  except ValueError as e:
    raise InputError(f"{path} is not JSON: {e}; remove it") from e
  for key in ("model", "init", "preset"):
    if old[key] != getattr(args, key):
      raise InputError(
        f"{path} is of --{key}={old[key]}, not {getattr(args, key)}; use "
        f"another --workdir"
      )
  return old["accuracy"]


def parse_args(
  argv: Sequence[str] | None,
) -> tuple[argparse.Namespace, list[str]]:
  """Returns the flags and the rest, which are overrides of configs."""
  parser = argparse.ArgumentParser(
    prog="python -m scripts.vtab",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument("--model", default="R50x1")
  parser.add_argument(
    "--init", default="", help=".npz or work directory; none: random weights"
  )
  parser.add_argument("--preset", default="paper")
  parser.add_argument("--data_dir", default="", help="of the TFDS sets")
  parser.add_argument("--workdir", required=True, type=pathlib.Path)
  parser.add_argument("--tasks", default="", help="NAME,NAME; none: all 19")
  return parser.parse_known_args(argv)


def run(args: argparse.Namespace, overrides: Sequence[str]) -> dict[str, Any]:
  """Runs the tasks asked for and returns what vtab.json holds.

  Raises:
    InputError: a task is unknown, none is prepared, or one fails.
    UsageError: an override is wrong.
  """
  say = functools.partial(print, flush=True)
  names = [
    vtab.task_name(t.strip()) for t in args.tasks.split(",") if t.strip()
  ]
  configs = {
    name: task_config(name, args, overrides) for name in names or vtab.TASKS
  }
  accuracy = read_table(args.workdir / TABLE, args)
  skipped = {}
  for name, config in configs.items():
    try:
      tfds_folders.find(config.data.name, config.data.dir)
    except InputError as e:
      skipped[name] = str(e)
      say(f"skipped {name}: {e}")
  todo = [name for name in configs if name not in skipped]
  if not todo:
    raise InputError(f"no task is prepared; {next(iter(skipped.values()))}")

  table = {}
  for i, name in enumerate(todo, 1):
    say(f"\n{name} ({i} of {len(todo)})")
    config = configs[name]
    try:
      result = train.train_and_evaluate(config, args.workdir / name)
    except InputError as e:
      raise InputError(f"{name}: {e}") from e
    split = config.data.eval_splits.split(",")[0].strip()
    accuracy[name] = result[f"eval/{split}/accuracy"]
    table = {
      "model": args.model,
      "init": args.init,
      "preset": args.preset,
      "accuracy": accuracy,
      "skipped": skipped,
      "means": summarize(accuracy),
    }
    files.write_text(args.workdir / TABLE, json.dumps(table, indent=2) + "\n")
    files.write_text(args.workdir / "vtab.md", markdown(table))
  say("\n" + markdown(table))
  return table


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line and returns the exit status."""
  args, overrides = parse_args(argv)
  checkpoint.silence_orbax()
  cache.enable_compilation_cache()
  return exit_status(lambda: run(args, overrides))


if __name__ == "__main__":
  sys.exit(main())
