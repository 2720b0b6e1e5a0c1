"""Parses the benchmark's flags into cases to measure."""

import argparse
import dataclasses
import itertools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from bit_jax.errors import UsageError
from bit_jax.storage import user_paths
from bit_jax.tools import command_line
from bit_jax.tools.command_line import at_least

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODES = ("train", "infer", "max_batch", "input", "start")
# {name in --peers: mode of torch.compile}; None is eager.
TIMM = {
  "timm": None,
  "timm_compiled": "default",
  "timm_max_autotune": "max-autotune",
}
TF_DATA = "tf.data"
_DEFAULT_PEERS = ("timm", "timm_compiled", TF_DATA)


@dataclasses.dataclass(frozen=True)
class Case:
  """One combination to measure.

  Attributes:
    mode: train, infer, input, start or max_batch.
    variant: Variant of the network, e.g. R50x1.
    px: Side of the network's input.
    batch: Global batch size.
    dtype: Dtype of the convolutions.
    overrides: Further config keys, e.g. ("optim.accum_steps=4",).
    config: Config file and arguments, as for bit_jax.main.
    classes: Outputs of the head.
  """

  mode: str
  variant: str = "R50x1"
  px: int = 224
  batch: int = 32
  dtype: str = "float32"
  overrides: tuple[str, ...] = ()
  config: str = "configs/upstream.py"
  classes: int = 1000

  @property
  def arguments(self) -> list[str]:
    """Arguments of bit_jax.main for this case, besides --config."""
    keys = (
      f"model.variant={self.variant}",
      f"model.dtype={self.dtype}",
      f"input.batch_size={self.batch}",
      f"input.crop_px={self.px}",
      f"input.resize_px={round(self.px * 8 / 7)}",
    )
    return [f"--config.{key}" for key in (*keys, *self.overrides)]


def make_cases(
  args: argparse.Namespace, overrides: Sequence[str]
) -> list[Case]:
  """Returns all combinations that the flags name.

  Args:
    args: The parsed flags.
    overrides: The remaining arguments, --config.KEY=VALUE.

  Raises:
    UsageError: An argument is unknown, or a mode does not suit --aot.
  """
  keys = []
  for item in overrides:
    key, equals, value = item.removeprefix("--config.").partition("=")
    if not item.startswith("--config.") or not equals:
      raise UsageError(f"unexpected argument {item!r}; see --help")
    keys.append(f"{key}={value}")
  swept = []
  for item in args.sweep:
    key, _, values = item.partition("=")
    if not values:
      raise UsageError(f"--sweep={item}: expected KEY=VALUE,VALUE")
    swept.append([f"{key}={value}" for value in values.split(",")])
  if args.aot and {"input", "start"} & {*args.mode}:
    raise UsageError("--aot goes with --mode=train, infer or max_batch")
  cases = {}
  for mode, variant, px, batch, dtype, *chosen in itertools.product(
    args.mode, args.variant, args.px, args.batch, args.dtype, *swept
  ):
    case = Case(
      *(mode, variant, px, batch, dtype, (*keys, *chosen)),
      config=args.config,
      classes=args.classes,
    )
    # The input pipeline has no network, so variants and dtypes make no cases.
    if mode == "input":
      case = dataclasses.replace(
        case, variant=args.variant[0], dtype=args.dtype[0]
      )
    cases[case] = None
  return list(cases)


def _some(kind: Callable[[str], Any], allowed: Sequence[Any] = ()):
  """Returns a parser of comma-separated values: `allowed` ones or above 0."""

  def parse(text):
    try:
      values = [kind(part) for part in text.split(",") if part]
    except ValueError:
      values = []
    good = all(v in allowed if allowed else v > 0 for v in values)
    if not values or not good:
      expected = (
        f"some of {', '.join(allowed)}" if allowed else "numbers above 0"
      )
      raise argparse.ArgumentTypeError(f"expected {expected}, by commas")
    return values

  return parse


def _peers(text):
  names = [name for name in text.split(",") if name]
  if not {*names} <= {*TIMM, TF_DATA}:
    raise argparse.ArgumentTypeError(
      f"expected some of {', '.join((*TIMM, TF_DATA))}, by commas, or nothing"
    )
  return names


def make_parser(docstring: str | None) -> command_line.Parser:
  """Returns the parser of the command's flags."""
  parser = command_line.Parser("scripts.benchmark", docstring)
  add, numbers = parser.add_argument, _some(int)
  add(
    "--mode",
    type=_some(str, MODES),
    default="train",
    help=f"some of {', '.join(MODES)}",
  )
  add(
    "--variant",
    type=lambda text: text.split(","),
    default="R50x1",
    help="variants of the network",
  )
  add("--px", type=numbers, default="224", help="sides of the network's input")
  add(
    "--batch",
    type=numbers,
    default="32",
    help="global batch sizes; first ones of a search",
  )
  add(
    "--dtype",
    type=_some(str, ("float32", "bfloat16")),
    default="float32",
    help="dtypes of the convolutions",
  )
  add("--classes", type=at_least(1), default=1000, help="outputs of the head")
  add(
    "--config",
    default="configs/upstream.py",
    metavar="FILE:ARGS",
    help="config file and arguments, as for bit_jax.main",
  )
  add(
    "--sweep",
    action="append",
    default=[],
    metavar="KEY=VALUE,VALUE",
    help="values of a config key to measure; may be repeated",
  )
  add(
    "--peers",
    type=_peers,
    default=",".join(_DEFAULT_PEERS),
    help=f"some of {', '.join((*TIMM, TF_DATA))}; '' for none",
  )
  add(
    "--devices",
    type=at_least(0),
    default=0,
    help="number of devices to use; 0: all (default)",
  )
  add("--rounds", type=at_least(1), default=5, help="rounds of measurements")
  add(
    "--round_secs",
    type=at_least(0.0),
    default=2.0,
    help="least duration of a round",
  )
  add(
    "--clock",
    choices=("wall", "cpu"),
    default="wall",
    help="clock that times the steps",
  )
  add(
    "--images",
    type=at_least(2),
    default=500,
    help="images generated for --mode=input",
  )
  add(
    "--precision",
    choices=("default", "highest"),
    default="default",
    help="highest: no TF32 on GPUs",
  )
  add(
    "--aot",
    "--topology",
    default="",
    help="compile only, for TPU chips, e.g. v3:16x16",
  )
  add(
    "--memory_gib",
    type=_some(float),
    default=[],
    help="memory sizes of a device for --mode=max_batch, by compilation",
  )
  add(
    "--check",
    type=user_paths.local,
    help="compare with a file written by --aot and --json",
  )
  add("--json", type=user_paths.local, help="file to write the results to")
  return parser
