r"""Packs folders or tars of images into a TFDS set, as array_record.

  bit_jax pack SRC --name=imagenet21k --data_dir=DIR \
      [--version=1.0.0] [--class_list=wnids.txt] [--labels=labels.csv]

For sets that TFDS does not build. Millions of small files become a few hundred
large ones, which allow random access and are quick to copy. Afterwards
`dataset=NAME,data_dir=DIR` names this set.

SRC is a folder of class folders, as for `folder:` data sets, or a folder of
uncompressed tar files, one per class, as ImageNet is distributed
(n01440764.tar); the tars are read without unpacking. Either may be divided into
train, val and test folders, which become the splits. For sets with several
labels per image, `--labels=FILE` has a line `path/in/SRC.jpg,name1;name2` for
each image; the folders then have no meaning.

Classes are numbered in alphabetical order, or in the order of `--class_list`, a
file with one name per line. The classes in SRC must then be those of the list;
`--allow_missing` accepts classes without images, so that a part of a set keeps
the outputs of the whole.

Images are stored unchanged, with a `label` and a `file_name`. The header of
each image is read, and an image that does not end as its format should is
decoded as a check. An image that cannot be used is an error; with `--skip_bad`
it is left out and listed in skipped.txt.

The order of a split is random but fixed (it follows a hash of the names), so a
slice such as train[:98%] is a random subset.

The set is written to DIR/NAME/incomplete.VERSION, which is renamed to VERSION
at the end. After an interruption the same command continues after the last
finished file.
"""

import math
import os
import pathlib
import re
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from bit_jax import progress
from bit_jax.errors import InputError, exit_status
from bit_jax.storage import files, user_paths
from bit_jax.tools import command_line
from bit_jax.tools.pack import find, shards

# With these names `dataset=` refers to built-in kinds of data sets.
_TAKEN = ("glyphs", "digits", "folder")


def pack(
  src: str,
  name: str,
  data_dir: str,
  *,
  version: str = "1.0.0",
  split: str = "",
  class_list: str = "",
  labels: str = "",
  allow_missing: bool = False,
  nested_classes: bool = False,
  skip_bad: bool = False,
  shard_mib: float = 256,
) -> None:
  """Packs the images of SRC as DIR/NAME/VERSION.

  Args:
    src: A folder of class folders or class tars, as `find.find` describes;
      never written to.
    name: Name of the set: letters, digits and _, beginning with a letter.
    data_dir: A local folder, created if missing.
    version: Three numbers, e.g. 1.0.0.
    split: Name of the only split of a folder without split folders; '' for
      train.
    class_list: A file with the class names in order; '' for sorted names.
    labels: A CSV file of image names and their classes; '' for class folders.
    allow_missing: Accepts classes of class_list that have no images.
    nested_classes: Accepts classes whose images are all in several folders
      below the class folder.
    skip_bad: Leaves out images that cannot be used, and lists them in
      skipped.txt.
    shard_mib: Approximate size of a shard in MiB.

  Raises:
    InputError: An argument or an image cannot be used, or DIR cannot be
      written.
  """
  started = time.monotonic()
  target = _target(src, name, data_dir, version, split)
  with progress.activity(f"listing {src}"):
    class_names, splits = find.find(
      src,
      split=split,
      class_list=class_list,
      labels=labels,
      allow_missing=allow_missing,
      nested_classes=nested_classes,
    )
  folder = target.with_name(f"incomplete.{version}")
  with progress.activity("dividing the images into files"):
    plan = shards.plan(name, class_names, splits, shard_mib)
  _check_space(target, plan, shards.finished(folder, plan))
  progress.say(
    f"{sum(map(len, splits.values())):,} images of {len(class_names):,} "
    f"classes, about {_size(plan.num_bytes)}, into {len(plan.shards):,} files "
    f"in {folder}"
  )
  with progress.activity("importing TFDS"):
    features = _features(class_names, multi_label=bool(labels))
  done = shards.write(folder, plan, splits, features, skip_bad)
  _write_metadata(folder, name, version, plan, done, features)
  skipped = sorted(text for shard in done.values() for text in shard["skipped"])
  if skipped:
    files.write_text(folder / "skipped.txt", "\n".join([*skipped, ""]))
  folder.rename(target)
  (target / shards.STATE).unlink()
  count = sum(shard["examples"] for shard in done.values())
  note = f" ({len(skipped):,} left out, see skipped.txt)" if skipped else ""
  print(
    f"{target}: {count:,} images{note} of {len(class_names):,} classes, "
    f"{_size(sum(shard['bytes'] for shard in done.values()))}, in "
    f"{time.monotonic() - started:,.0f} s; use it with "
    f"dataset={name},data_dir={target.parent.parent}"
  )


def _target(
  src: str, name: str, data_dir: str, version: str, split: str
) -> pathlib.Path:
  """Returns DIR/NAME/VERSION; raises InputError if it cannot be created."""
  word = r"[A-Za-z][A-Za-z0-9_]*"
  for flag, value, pattern, expected in (
    ("--name", name, word, "letters, digits and _, a letter first"),
    ("--split", split or "train", word, "letters, digits and _, such as test"),
    ("--version", version, r"\d+\.\d+\.\d+", "three numbers, such as 1.0.0"),
  ):
    if not re.fullmatch(pattern, value, re.ASCII):
      raise InputError(f"{flag}={value}: expected {expected}")
  if name in _TAKEN:
    raise InputError(f"--name={name} means something else; choose another")
  root = user_paths.local(data_dir)
  if "://" in user_paths.expand(data_dir):
    raise InputError(
      f"--data_dir={data_dir} is not a local folder; pack into one and copy it"
    )
  root = root.absolute()
  target = root / name / version
  if target.exists():
    raise InputError(
      f"{target} is there already; remove it or choose another --version"
    )
  existing = _existing(target)
  if not existing.is_dir() or not os.access(existing, os.W_OK):
    raise InputError(f"--data_dir={data_dir}: {existing} cannot be written to")
  if user_paths.local(src).resolve() in target.resolve().parents:
    raise InputError(f"--data_dir={data_dir} is in {src}; choose another")
  return target


def _existing(path: pathlib.Path) -> pathlib.Path:
  """Returns the path if it exists, else its closest existing parent."""
  return next(p for p in (path, *path.parents) if p.exists())


def _check_space(
  folder: pathlib.Path, plan: shards.Plan, done: Mapping[str, Any]
) -> None:
  needed = plan.num_bytes - sum(shard["bytes"] for shard in done.values())
  free = shutil.disk_usage(_existing(folder)).free
  if needed > free:
    raise InputError(
      f"{folder} needs about {_size(needed)} more, but {_size(free)} are free"
    )


def _features(class_names: Sequence[str], multi_label: bool) -> Any:
  import tensorflow_datasets as tfds

  label = tfds.features.ClassLabel(names=list(class_names))
  return tfds.features.FeaturesDict(
    {
      "file_name": tfds.features.Text(),
      # Without an encoding TFDS stores the bytes of any format as they are.
      "image": tfds.features.Image(shape=(None, None, 3)),
      "label": tfds.features.Sequence(label) if multi_label else label,
    }
  )


def _write_metadata(
  folder: pathlib.Path,
  name: str,
  version: str,
  plan: shards.Plan,
  done: Mapping[str, Any],
  features: Any,
) -> None:
  """Writes the metadata with which TFDS reads the shards as a set."""
  import tensorflow_datasets as tfds

  template = tfds.core.ShardedFileTemplate(
    template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    dataset_name=name,
    filetype_suffix="array_record",
    data_dir=epath.Path(folder),
  )
  infos = []
  for split in dict.fromkeys(shard.split for shard in plan.shards):
    parts = [done[shard.file] for shard in plan.shards if shard.split == split]
    lengths = [shard["examples"] for shard in parts]
    if not any(lengths):
      raise InputError(
        f"{folder}: no image of {split} can be used, such as "
        f"{parts[0]['skipped'][0]}"
      )
    infos.append(
      tfds.core.SplitInfo(
        name=split,
        shard_lengths=lengths,
        num_bytes=sum(shard["bytes"] for shard in parts),
        filename_template=template.replace(split=split),
      )
    )
  tfds.folder_dataset.write_metadata(
    data_dir=folder,
    features=features,
    split_infos=infos,
    version=version,
    filename_template=template.template,
    check_data=False,
  )


def _size(num_bytes: float) -> str:
  for unit in ("B", "kB", "MB", "GB"):
    if num_bytes < 1000:
      return f"{num_bytes:.3g} {unit}"
    num_bytes /= 1000
  return f"{num_bytes:,.2f} TB"


def _positive(text: str) -> float:
  value = float(text)
  if not 0 < value < math.inf:
    raise ValueError
  return value


def main(argv: list[str] | None = None) -> int:
  """Runs the command line and returns the exit status."""
  parser = command_line.Parser("bit_jax.tools.pack", __doc__)
  add = parser.add_argument
  add("src", metavar="SRC", help="folder of class folders or class tars")
  add("--name", required=True, help="name of the set")
  add("--data_dir", metavar="DIR", required=True, help="folder of TFDS sets")
  add("--version", default="1.0.0", help="three numbers")
  add(
    "--split",
    default="",
    help="name of the only split if SRC has no split folders (default: train)",
  )
  add(
    "--class_list",
    metavar="FILE",
    default="",
    help="class names in order, one per line (default: in the order of the "
    "alphabet)",
  )
  add(
    "--labels",
    metavar="FILE",
    default="",
    help="CSV file with a line IMAGE,CLASS;CLASS for each image (default: the "
    "folders are the classes)",
  )
  add(
    "--allow_missing",
    action="store_true",
    help="accept classes of --class_list without images",
  )
  add(
    "--nested_classes",
    action="store_true",
    help="accept class folders with images in several folders only",
  )
  add("--skip_bad", action="store_true", help="leave out unusable images")
  add(
    "--shard_mib",
    type=_positive,
    default=256.0,
    help="approximate size of a file in MiB",
  )
  args = parser.parse_args(argv)
  if args.allow_missing and not args.class_list:
    parser.error("--allow_missing needs a --class_list")
  return exit_status(lambda: pack(**vars(args)))


if __name__ == "__main__":
  sys.exit(main())
