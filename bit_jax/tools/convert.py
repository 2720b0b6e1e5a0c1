"""Converts weights between the layouts of BiT's code bases, bit for bit.

  python -m bit_jax.tools.convert SRC DST [--layout=LAYOUT] [--labels=FILE]

SRC is anything that `weights.load` reads: a .npz or .safetensors file, a work
directory, a checkpoint, or the name of a release. Its layout shows in its
names. DST is written in the official layout if it ends in .npz and in timm's if
it ends in .safetensors; --layout chooses another. Arrays go from file to file
one by one.
"""

import argparse
import dataclasses
import pathlib
import sys

from bit_jax import errors, weights
from bit_jax.data import class_names
from bit_jax.errors import InputError
from bit_jax.storage import cache
from bit_jax.weights import layouts

_DEFAULTS = {".npz": layouts.OFFICIAL, ".safetensors": layouts.TIMM}


def convert(src: str, dst: str, layout: str = "", labels: str = "") -> None:
  """Writes the weights of SRC to DST and prints a line about them.

  Args:
    src: what `weights.load` reads.
    dst: a file ending in .npz or .safetensors.
    layout: one of layouts.LAYOUTS; '' to go by dst.
    labels: file of class names, for the bit_jax layout only; '' for those that
      come with src.

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
      print(
        "class names and preprocessing are left out; --layout=bit_jax has both"
      )


def main(argv: list[str] | None = None) -> int:
  """Runs the command line and returns the exit status."""
  parser = argparse.ArgumentParser(
    prog="python -m bit_jax.tools.convert",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument("src", metavar="SRC")
  parser.add_argument("dst", metavar="DST")
  parser.add_argument("--layout", choices=layouts.LAYOUTS, default="")
  parser.add_argument("--labels", metavar="FILE", default="")
  args = parser.parse_args(argv)
  cache.enable_compilation_cache()  # Checkpoints are checked on the device.
  return errors.exit_status(
    lambda: convert(args.src, args.dst, args.layout, args.labels)
  )


if __name__ == "__main__":
  sys.exit(main())
