"""Converts weights between the layouts of BiT's code bases, bit for bit.

  bit_jax convert SRC DST [--layout=LAYOUT] [--labels=FILE]
  bit_jax convert BiT-M-R50x1 bit.safetensors

SRC is anything that `weights.load` reads: a .npz or .safetensors file, a work
directory, a checkpoint, or the name of a release. Its layout is recognized by
the names of its arrays. DST is written in the official layout if it ends in
.npz and in timm's if it ends in .safetensors; --layout chooses another. Arrays
are read and written one at a time, to save memory.
"""

import dataclasses
import pathlib
import sys

from bit_jax import errors, progress, weights
from bit_jax.data import class_names
from bit_jax.errors import InputError
from bit_jax.storage import cache
from bit_jax.tools import command_line
from bit_jax.weights import layouts

_DEFAULTS = {".npz": layouts.OFFICIAL, ".safetensors": layouts.TIMM}


def convert(src: str, dst: str, layout: str = "", labels: str = "") -> None:
  """Writes the weights of a file in another layout and prints a summary.

  Args:
    src: The weights: anything that `weights.load` reads.
    dst: The file to write; ends in .npz or .safetensors.
    layout: A key of layouts.LAYOUTS; '' chooses by the ending of dst.
    labels: A file of class names, for the bit_jax layout only; '' keeps those
      of src.

  Raises:
    InputError: src cannot be read, dst cannot be written, or labels do not fit.
  """
  suffix = pathlib.Path(dst).suffix
  if suffix not in _DEFAULTS:
    raise InputError(f"{dst} ends in neither {' nor '.join(_DEFAULTS)}")
  to = layouts.LAYOUTS[layout] if layout else _DEFAULTS[suffix]
  if labels and to is not layouts.BIT_JAX:
    raise InputError(
      f"--labels: the {to.name} layout has no place for class names; use "
      "--layout=bit_jax"
    )
  with weights.open_lazily(src) as loaded:
    if labels:
      names = class_names.read(labels, "--labels")
      if len(names) != loaded.num_classes:
        raise InputError(
          f"--labels={labels} holds {len(names)} names, but the head has "
          f"{loaded.num_classes} outputs"
        )
      loaded = dataclasses.replace(loaded, class_names=names)
    weights.save_as(dst, loaded, to)
    print(
      f"{dst}: {loaded.variant}, {loaded.num_classes} classes, {to.name} layout"
    )
    if loaded.class_names and to is not layouts.BIT_JAX:
      progress.say(
        "class names and preprocessing are left out; --layout=bit_jax has both"
      )


def main(argv: list[str] | None = None) -> int:
  """Runs the command line and returns the exit status."""
  parser = command_line.Parser("bit_jax.tools.convert", __doc__)
  parser.add_argument("src", metavar="SRC", help="weights to read")
  parser.add_argument("dst", metavar="DST", help="file to write")
  parser.add_argument(
    "--layout",
    choices=layouts.LAYOUTS,
    default="",
    help="layout of DST (default: by its ending)",
  )
  parser.add_argument(
    "--labels",
    metavar="FILE",
    default="",
    help="class names, one per line, for the bit_jax layout (default: those of "
    "SRC)",
  )
  args = parser.parse_args(argv)
  # Reading a checkpoint compiles a program that verifies it on the device.
  cache.enable_compilation_cache()
  return errors.exit_status(
    lambda: convert(args.src, args.dst, args.layout, args.labels)
  )


if __name__ == "__main__":
  sys.exit(main())
