"""Says whether a run fits its devices before it starts, without running it.

  python -m bit_jax.tools.preflight --config=configs/NAME.py:key=value,... \\
      [--config.key=value ...] [--topology=v3:16x16]

Takes the flags of bit_jax.main and compiles its very update step: for a TPU
topology, named by its chips, where libtpu is installed
(`pip install -e '.[preflight]'`; no TPU is needed), else for the devices of
this machine. Prints the memory a device needs, what a step costs and how many
there are. Exits with 1 if it does not fit, after looking for what would make it
fit: every attempt is a compilation, minutes for the largest models.

The data set need not be there: its facts are given by --num_examples,
--num_classes and --image_px, or taken from what is published of it.
"""

import argparse
import contextlib
import dataclasses
import json
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from etils import epath

from bit_jax.data.source import DatasetInfo
from bit_jax.errors import InputError, exit_status
from bit_jax.parallel import sharding
from bit_jax.preflight import aot
from bit_jax.preflight.fit import Attempt, Preflight
from bit_jax.recipe import check
from bit_jax.recipe.load import Config, load_config
from bit_jax.run import sources

# Sizes from the sets' papers; the image size is the most frequent of
# ILSVRC-2012, and assumed to be that of the larger sets.
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
  """Returns what the rules need to know of the data, and where it is from.

  Args:
    config: names the data set, which need not be there.
    given: fields of DatasetInfo that go before what is found.

  Raises:
    InputError: something is neither given, nor in the data set, nor published.
  """
  if len(given) == 3:
    return DatasetInfo(**given), "given"
  data = config.data.copy_and_resolve_references()
  if data.examples_per_class and not epath.Path(data.subset_file).exists():
    data.subset_file = ""  # Else it would be written.
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
  """Returns an attempt as JSON has it."""
  usable, total = flight.usable_bytes, attempt.total_bytes
  return {
    **dataclasses.asdict(attempt.needs),
    "overrides": attempt.overrides,
    "waiting_bytes": flight.waiting_bytes,
    "total_bytes": total,
    "usable_bytes": usable,
    "free_bytes": usable - total if usable else None,
    "fits": attempt.fits,
  }


def _run_numbers(flight: Preflight, origin: str, topology: str) -> dict:
  """Returns what is known before the step is compiled."""
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
  needs, usable = attempt.needs, flight.usable_bytes
  if needs.refusal:
    return f"the compiler refuses: {needs.refusal}"
  memory = (
    f"memory of a device: {_gib(needs.argument_bytes)} GiB arguments + "
    f"{_gib(needs.temp_bytes)} temporaries + {_gib(needs.code_bytes)} code + "
    f"{_gib(needs.output_bytes)} other outputs + "
    f"{_gib(flight.waiting_bytes)} for batches that wait = "
    f"{_gib(attempt.total_bytes)} GiB"
  )
  if usable:
    free = _gib(usable - attempt.total_bytes)
    memory += f" of {_gib(usable)}; free: {free}"
  else:
    memory += "; what there is is unknown, --hbm_gib= says it"
  cost = (
    f"a step on a device: {needs.flops:.3g} FLOPs, "
    f"{needs.bytes_accessed:.3g} bytes of memory traffic"
  )
  if needs.estimated_secs:
    cost += (
      f"; the compiler's estimate, not measured: "
      f"{1000 * needs.estimated_secs:.1f} ms"
    )
  return (
    f"{memory}\n{cost}\ntraced in {needs.trace_secs:.1f} s, compiled in "
    f"{needs.compile_secs:.1f} s by {compiler}"
  )


def _refusal(flight: Preflight, asked: Attempt, advice: str) -> InputError:
  if asked.needs.refusal:
    found = f"the compiler refuses: {asked.needs.refusal}"
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
  """Compiles, prints what was found, and refuses what does not fit.

  Args:
    flight: what is to be checked.
    origin: Where the data set's properties are from, to be printed.
    topology: likewise.
    suggest: look for what would make it fit.
    as_json: print one JSON object instead.

  Raises:
    InputError: it does not fit; the message says what would.
  """

  def say(line):
    if not as_json:
      print(line, flush=True)

  def tell(attempt):
    verdict = "fits" if attempt.fits else "does not fit"
    size = f"{_gib(attempt.total_bytes)} GiB"
    say(f"with {_flags(attempt.overrides)}: {size}, {verdict}")

  numbers = _run_numbers(flight, origin, topology)
  say(_describe_run(numbers))
  asked = flight.attempt({})
  say(_describe_attempt(flight, asked, numbers["compiler"]))
  fitting, tried, error = None, [], None
  if asked.fits is False:
    advice = (
      "more devices, a smaller config.input.batch_size or "
      "--config.model.dtype=bfloat16 may help"
    )
    if suggest:
      fitting, tried = flight.find_fitting(tell)
      if fitting:
        advice = f"it fits with {_flags(fitting.overrides)}"
      else:
        advice = f"nothing that keeps the numbers makes it fit; {advice}"
    elif other := next(flight.alternatives(), None):
      advice = f"{_flags(other)}, {advice}"
    error = _refusal(flight, asked, advice)
  elif asked.fits:
    say("the update step fits")
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


def _positive(kind: type) -> Callable[[str], Any]:
  def parse(text):
    with contextlib.suppress(ValueError):
      if 0 < (number := kind(text)) < math.inf:
        return number
    raise argparse.ArgumentTypeError("expected a number above 0")

  return parse


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command; returns its exit code."""
  parser = argparse.ArgumentParser(
    prog="python -m bit_jax.tools.preflight",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  add = parser.add_argument
  add("--config", metavar="FILE", required=True, help="as of bit_jax.main")
  add("--workdir", help="taken, so that main's flags can be; not looked at")
  add(
    "--topology", default="", help="of TPU chips: v3:16x16; else this machine"
  )
  add("--num_examples", type=_positive(int), help="of the training set")
  add("--num_classes", type=_positive(int), help="of the training set")
  add("--image_px", type=_image_px, help="typical size, 375x500 or 32")
  add("--hbm_gib", type=_positive(float), help="a device has for a program")
  add(
    "--no_suggestions", action="store_true", help="compile only what is asked"
  )
  add("--json", action="store_true", help="print JSON")
  args, overrides = parser.parse_known_args(argv)
  given = {
    key: getattr(args, key)
    for key in ("num_examples", "num_classes", "image_px")
    if getattr(args, key)
  }

  def run_check() -> None:
    config = load_config(args.config, overrides)
    devices = None
    if args.topology:
      # Nothing runs: an accelerator that is here stays free for others.
      jax.config.update("jax_platforms", "cpu")
      devices = aot.topology_devices(args.topology)
    mesh = sharding.make_mesh(devices)
    check.check(config, mesh)  # Before the data, which may take long.
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
