r"""Checks before a run whether its step fits in device memory.

  bit_jax preflight --config=NAME:key=value,... [--config.KEY=VALUE ...]
  bit_jax preflight --config=upstream:preset=bit_m,model=R152x4 \
      --topology=v3:16x16

Takes the flags of `bit_jax train` and compiles the same update step, but runs
nothing. It compiles for the devices of this machine or, with --topology, for
TPUs; that needs libtpu (`pip install -e '.[preflight]'`) but no TPU. Prints the
memory and cost of a step on one device and the number of steps. If the step
does not fit, it searches for settings with which it does, and exits with 1.
Each attempt is a compilation, which takes minutes for the largest models.

The data set need not be there: --num_examples, --num_classes and --image_px
describe it, or else published numbers are assumed for well-known sets.
"""

import argparse
import dataclasses
import json
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from bit_jax import progress
from bit_jax.data.source import DatasetInfo
from bit_jax.errors import InputError, exit_status
from bit_jax.parallel import sharding
from bit_jax.preflight import aot
from bit_jax.preflight.fit import Attempt, Preflight
from bit_jax.recipe import check, network
from bit_jax.recipe.load import Config, load_config
from bit_jax.run import sources
from bit_jax.tools import command_line
from bit_jax.tools.command_line import at_least

# Sizes from the sets' papers. The image size is the most frequent one of
# ILSVRC-2012; for ImageNet-21k and JFT-300M it is an assumption.
_PUBLISHED = {
  "cifar10": DatasetInfo(50_000, 10, (32, 32)),
  "cifar100": DatasetInfo(50_000, 100, (32, 32)),
  "imagenet2012": DatasetInfo(1_281_167, 1000, (375, 500)),
  "imagenet21k": DatasetInfo(14_197_122, 21_843, (375, 500)),
  "jft300m": DatasetInfo(300_000_000, 18_291, (375, 500)),
}


def find_info(
  config: Config, given: Mapping[str, Any]
) -> tuple[DatasetInfo, str]:
  """Returns the dataset info that the rules need, and its origin in words.

  Args:
    config: Names the data set, which need not be there.
    given: Fields of DatasetInfo that override those found.

  Raises:
    InputError: A field is neither given nor published, and the data set is not
      there.
  """
  if len(given) == 3:
    return DatasetInfo(**given), "given"
  data = config.data.copy_and_resolve_references()
  if data.examples_per_class and not epath.Path(data.subset_file).exists():
    # Loading would write the missing subset file, but a check writes nothing.
    data.subset_file = ""
  try:
    info = sources.dataset_info(sources.load(data, seed=config.seed))
    origin = "read from the data set"
  except InputError as error:
    info = _PUBLISHED.get(re.split("[/:]", data.name)[0])
    if info is None:
      missing = {"num_examples", "num_classes", "image_px"} - given.keys()
      raise InputError(
        f"{error}; or give its {', '.join(sorted(missing))} as flags"
      ) from error
    if data.train_split not in ("", "train") and "num_examples" not in given:
      raise InputError(
        f"config.data.train_split={data.train_split!r} of a set that is not "
        f"there: its size is unknown, give --num_examples"
      ) from error
    origin = "assumed from what is published, the data set is not there"
    if data.examples_per_class:
      classes = given.get("num_classes", info.num_classes)
      info = dataclasses.replace(
        info, num_examples=data.examples_per_class * classes
      )
  if given:
    origin += f", {', '.join(given)} given"
  return dataclasses.replace(info, **given), origin


def _flags(overrides: Mapping[str, Any]) -> str:
  return " ".join(
    f"--config.{key}={str(value).lower()}" for key, value in overrides.items()
  )


def _gib(number: float) -> str:
  return f"{number / aot.GIB:.2f}"


def _numbers(flight: Preflight, attempt: Attempt) -> dict[str, Any]:
  """Returns the fields of an attempt in the JSON output."""
  usable, total = flight.usable_bytes, attempt.total_bytes
  return {
    **dataclasses.asdict(attempt.cost),
    "overrides": attempt.overrides,
    "waiting_bytes": flight.waiting_bytes,
    "total_bytes": total,
    "usable_bytes": usable,
    "free_bytes": usable - total if usable else None,
    "fits": attempt.fits,
  }


def _run_numbers(flight: Preflight, origin: str, topology: str) -> dict:
  """Returns the fields of the JSON output that precede the compilation."""
  config, mesh = flight.config, flight.mesh
  device = mesh.devices.flat[0]
  r, batch_size = config.resolved, config.input.batch_size
  return {
    "variant": config.model.variant,
    "dtype": config.model.dtype,
    "topology": topology,
    "device_kind": device.device_kind,
    "compiler": aot.compiler_version(device),
    "num_devices": mesh.size,
    "data": config.data.name,
    "num_examples": r.train_examples,
    "num_classes": r.num_classes,
    "facts": origin,
    "crop_px": r.crop_px,
    "batch_size": batch_size,
    "examples_per_device": batch_size // mesh.size,
    "accum_steps": config.optim.accum_steps,
    "shard_state": config.parallel.shard_state,
    "steps_per_epoch": r.train_examples / batch_size,
    "total_steps": r.total_steps,
  }


def _describe_run(n: Mapping[str, Any]) -> str:
  where = f" ({n['topology']})" if n["topology"] else ""
  parts = n["accum_steps"]
  return "\n".join(
    (
      f"{n['variant']}, {n['dtype']}, on {n['num_devices']} x "
      f"{n['device_kind']}{where}; the state is "
      f"{'split' if n['shard_state'] else 'replicated'}",
      f"data: {n['data']}, {n['num_examples']:,} examples, "
      f"{n['num_classes']:,} classes ({n['facts']})",
      f"a step: {n['batch_size']} images of {n['crop_px']} px, "
      f"{n['examples_per_device']} a device"
      + (f" in {parts} parts" if parts > 1 else "")
      + f"; {n['steps_per_epoch']:,.1f} steps an epoch, "
      f"{n['total_steps']:,} in all",
    )
  )


def _describe_attempt(
  flight: Preflight, attempt: Attempt, compiler: str
) -> str:
  cost, usable = attempt.cost, flight.usable_bytes
  if cost.refusal:
    return f"the compiler refuses: {cost.refusal}"
  memory = (
    f"memory of a device: {_gib(cost.argument_bytes)} GiB arguments + "
    f"{_gib(cost.temp_bytes)} temporaries + {_gib(cost.code_bytes)} code + "
    f"{_gib(cost.output_bytes)} other outputs + "
    f"{_gib(flight.waiting_bytes)} for batches that wait = "
    f"{_gib(attempt.total_bytes)} GiB"
  )
  if usable:
    free = _gib(usable - attempt.total_bytes)
    memory += f" of {_gib(usable)}; free: {free}"
  else:
    memory += "; the device's memory is unknown, give it with --hbm_gib="
  work = (
    f"a step on a device: {cost.flops:.3g} FLOPs, "
    f"{cost.bytes_accessed:.3g} bytes of memory traffic"
  )
  if cost.estimated_secs:
    work += (
      f"; the compiler's estimate, not measured: "
      f"{1000 * cost.estimated_secs:.1f} ms"
    )
  return (
    f"{memory}\n{work}\ntraced in {cost.trace_secs:.1f} s, compiled in "
    f"{cost.compile_secs:.1f} s by {compiler}"
  )


def _refusal(flight: Preflight, asked: Attempt, advice: str) -> InputError:
  if asked.cost.refusal:
    found = f"the compiler refuses: {asked.cost.refusal}"
  else:
    found = (
      f"a device needs {_gib(asked.total_bytes)} GiB and has "
      f"{_gib(flight.usable_bytes)}"
    )
  return InputError(f"the step does not fit: {found}; {advice}")


def run(
  flight: Preflight,
  *,
  origin: str = "",
  topology: str = "",
  suggest: bool = True,
  as_json: bool = False,
) -> None:
  """Compiles the step and prints its memory and cost.

  Args:
    flight: The config and devices to check.
    origin: Origin of the dataset info, to be printed.
    topology: Name of the TPU topology, to be printed.
    suggest: Searches for settings that fit if the step does not.
    as_json: Prints one JSON object instead of text.

  Raises:
    InputError: The step does not fit; the message names settings that do.
  """

  def print_line(line):
    if not as_json:
      print(line, flush=True)

  def print_attempt(attempt):
    verdict = "fits" if attempt.fits else "does not fit"
    size = f"{_gib(attempt.total_bytes)} GiB"
    print_line(f"with {_flags(attempt.overrides)}: {size}, {verdict}")

  numbers = _run_numbers(flight, origin, topology)
  print_line(_describe_run(numbers))
  with progress.activity("compiling the step"):
    asked = flight.attempt({})
  print_line(_describe_attempt(flight, asked, numbers["compiler"]))
  if asked.fits is False and flight.chooses_parts:
    try:
      parts = flight.choose_parts(print_line)
      if parts > 1:
        asked = flight.attempt({"optim.accum_steps": parts})
        numbers["accum_steps"] = parts
    except InputError as e:
      print_line(str(e))
  fitting, tried, error = None, [], None
  if asked.fits is False:
    advice = (
      "more devices, a smaller config.input.batch_size or "
      "--config.model.dtype=bfloat16 may help"
    )
    if suggest:
      with progress.activity("compiling the step in other ways"):
        fitting, tried = flight.find_fitting(print_attempt)
      if fitting:
        advice = f"it fits with {_flags(fitting.overrides)}"
      else:
        advice = f"nothing that keeps the numbers makes it fit; {advice}"
    elif other := next(flight.alternatives(), None):
      advice = f"{_flags(other)}, {advice}"
    error = _refusal(flight, asked, advice)
  elif asked.fits:
    print_line("the update step fits")
  if as_json:
    numbers |= _numbers(flight, asked)
    numbers["tried"] = [_numbers(flight, attempt) for attempt in tried]
    numbers["suggestion"] = fitting.overrides if fitting else None
    print(json.dumps(numbers))
  if error:
    raise error


def _image_px(text: str) -> tuple[int, int]:
  if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)?", text):
    raise argparse.ArgumentTypeError("expected e.g. 375x500 or 32")
  sides = [int(side) for side in text.split("x")]
  return sides[0], sides[-1]


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command; returns its exit code."""
  parser = command_line.Parser("bit_jax.tools.preflight", __doc__)
  add = parser.add_argument
  found = "(default: as found in the data set)"
  add(
    "--config",
    metavar="NAME:ARGS",
    required=True,
    help="name or file of the config, and its arguments key=value,...",
  )
  add("--workdir", help="ignored; allows the flags of `bit_jax train`")
  add(
    "--topology",
    default="",
    help="TPU generation and chips, e.g. v3:16x16 (default: this machine)",
  )
  add(
    "--num_examples", type=at_least(1), help=f"size of the training set {found}"
  )
  add(
    "--num_classes",
    type=at_least(1),
    help=f"classes of the training set {found}",
  )
  add(
    "--image_px",
    type=_image_px,
    help=f"typical image size, 375x500 or 32 {found}",
  )
  add(
    "--hbm_gib",
    type=at_least(0.01),
    help="memory in GiB that a program may use on one device (default: as the "
    "device says)",
  )
  add(
    "--no_suggestions",
    action="store_true",
    help="do not search for settings that fit",
  )
  add("--json", action="store_true", help="print one JSON object")
  args, overrides = parser.parse_known_args(argv)
  given = {
    key: getattr(args, key)
    for key in ("num_examples", "num_classes", "image_px")
    if getattr(args, key)
  }

  def run_check() -> None:
    config = load_config(args.config, overrides)
    # The weights need not be there: a run on another machine may have them.
    config = network.resolve(config, required=False)
    mesh = (
      aot.topology_mesh(args.topology)
      if args.topology
      else sharding.make_mesh()
    )
    # Reading the data may take long, so a wrong config fails before it.
    check.check(config, mesh)
    with progress.activity(f"looking at {config.data.name}"):
      info, origin = find_info(config, given)
    if args.hbm_gib:
      usable = int(args.hbm_gib * aot.GIB)
    else:
      usable = aot.usable_bytes(mesh.devices.flat[0])
    run(
      Preflight(config, info, mesh, usable, aot.compile_step),
      origin=origin,
      topology=args.topology,
      suggest=not args.no_suggestions,
      as_json=args.json,
    )

  return exit_status(run_check)


if __name__ == "__main__":
  sys.exit(main())
