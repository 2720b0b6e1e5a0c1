"""Builds a TFDS image set as array_record, the format bit_jax reads.

  bit_jax prepare NAME[/CONFIG][:VERSION] --data_dir=DIR
  bit_jax prepare cifar10 --data_dir=$HOME/tfds

TFDS needs TensorFlow to build most sets, as it encodes images with it, and to
read the tfrecord files of sets built earlier. bit_jax does without TensorFlow,
so the work happens in a temporary virtual environment: 2.4 GB in the temporary
folder, created in about a minute and a half on two cores and removed at the
end. `--venv=PATH` creates it at PATH and keeps it for the next set.

A set that DIR already holds as tfrecord is converted in place, beside its
tfrecord files and without a download. Any other set is downloaded to
DIR/downloads and built. `--dry_run` prints the commands without running them.
"""

import contextlib
import difflib
import fnmatch
import inspect
import json
import platform
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from bit_jax import progress
from bit_jax.errors import InputError, exit_status, some
from bit_jax.storage import user_paths
from bit_jax.tools import command_line

_REQUIREMENTS = (
  # tensorflow-cpu has wheels for x86 Linux only.
  "tensorflow-cpu>=2.18,<3"
  if (platform.system(), platform.machine()) == ("Linux", "x86_64")
  else "tensorflow>=2.18,<3",
  "tensorflow-datasets>=4.9.8,<5",
  "array_record>=0.8,<0.9",
  # The `tfds` command imports these three without declaring them.
  "apache-beam>=2.60,<3",
  "importlib_resources>=6,<8",
  "mlcroissant>=1,<2",
  # The builders of image sets import these when they run.
  "h5py>=3,<4",
  "opencv-python-headless>=4.10,<6",
  "pandas>=2,<4",
  "pillow>=10,<14",
  "scikit-image>=0.24,<1",
  "scipy>=1.13,<2",
  "tifffile>=2024.8,<2028",
)

_STDERR = 2

_NAME = re.compile(
  r"(?P<dataset>\w+)(/(?P<config>[\w.+-]+))?"
  r"(:(?P<version>(\d+|\*)\.(\d+|\*)\.(\d+|\*)))?"
)
# Files that instructions name, without URLs and folders.
_FILE_NAME = re.compile(
  r"(?<![\w/.:-])[\w-]+\.(?:tar\.gz|tar|tgz|zip|rar|7z|csv|mat)\b"
)


def _parse_name(name: str) -> tuple[str, str, str]:
  """Splits NAME[/CONFIG][:VERSION]; returns '' for each missing part."""
  match = _NAME.fullmatch(name)
  if not match:
    raise InputError(
      f"{name!r} is not NAME[/CONFIG][:VERSION], such as sun397/tfds:4.*.*"
    )
  return match["dataset"], match["config"] or "", match["version"] or ""


def _newest_version(folder: Path, version: str) -> Path | None:
  """Returns folder/VERSION for the highest prepared version that matches."""
  found = [
    path.parent
    for path in folder.glob("*/dataset_info.json")
    if re.fullmatch(r"\d+\.\d+\.\d+", path.parent.name)
    and fnmatch.fnmatch(path.parent.name, version or "*")
  ]
  return max(
    found, key=lambda path: [int(n) for n in path.name.split(".")], default=None
  )


def _has_array_record(version_dir: Path) -> bool:
  """Returns True if TFDS recorded this version as array_record."""
  path = version_dir / "dataset_info.json"
  try:
    info = json.loads(path.read_text())
    formats = [info.get("fileFormat"), *info.get("alternativeFileFormats", [])]
  except (OSError, ValueError, AttributeError, TypeError) as error:
    raise InputError(f"{path} is not a TFDS description: {error}") from error
  return "array_record" in formats


def _builder_cls(dataset: str):
  """Returns the TFDS builder class, without building or downloading."""
  # The import is slow, and a set that is only converted does not need it.
  import tensorflow_datasets as tfds

  known = tfds.list_builders(with_community_datasets=False)
  if dataset not in known:
    close = difflib.get_close_matches(dataset, known, n=3)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    raise InputError(f"TFDS has no data set {dataset!r}{hint}")
  return tfds.builder_cls(dataset)


def _choose_config(builder_cls, config: str) -> str:
  """Returns the config that TFDS would load: `config`, or else the default."""
  if not config:
    # Without a config `tfds build` would build all of them, up to a hundred.
    default = builder_cls.default_builder_config
    return default.name if default else ""
  known = [c.name for c in builder_cls.BUILDER_CONFIGS]
  if config not in known:
    raise InputError(
      f"{builder_cls.name} has no config {config!r}; TFDS knows "
      f"{', '.join(known) or 'none'}"
    )
  return config


def _require_manual_files(builder_cls, data_dir: Path) -> None:
  """Prints instructions and raises InputError if manual files are missing."""
  instructions = builder_cls.MANUAL_DOWNLOAD_INSTRUCTIONS
  if not instructions:
    return
  manual_dir = data_dir / "downloads" / "manual"
  instructions = inspect.cleandoc(instructions)
  # Files of other sets may be there as well, and unpacked ones.
  there = {p.name for glob in ("*", "*/*") for p in manual_dir.glob(glob)}
  named = sorted({*_FILE_NAME.findall(instructions)})
  missing = [n for n in named if not {n, n.partition(".")[0]} & there]
  if there and (not named or len(missing) < len(named)):
    if missing:
      print(
        f"note: TFDS asks for {some(named)} in {manual_dir}, where "
        f"{some(missing)} is not to be found",
        file=sys.stderr,
      )
    return
  print(instructions)
  raise InputError(
    f"TFDS cannot download {builder_cls.name} itself: put the files described "
    f"above into {manual_dir} and run this again"
  )


def _check_venv(venv: Path) -> None:
  """Raises InputError if creating the environment would damage a folder."""
  if venv.resolve() == Path(sys.prefix).resolve():
    raise InputError(
      f"--venv={venv} is bit_jax's own environment, which stays free of "
      "TensorFlow; name another folder"
    )
  is_free = not venv.exists() or (venv.is_dir() and not any(venv.iterdir()))
  if not is_free and not (venv / "pyvenv.cfg").is_file():
    raise InputError(
      f"--venv={venv} exists and is no virtual environment; name a new folder"
    )


def _plan(name: str, root: Path) -> tuple[Path, str, list[str]]:
  """Returns the set's folder, its version and the arguments for `tfds`.

  The arguments are empty if the set is ready.
  """
  dataset, config, version = _parse_name(name)
  folder = root / dataset / config
  prepared = _newest_version(folder, version)
  if prepared is None:
    builder_cls = _builder_cls(dataset)
    config = _choose_config(builder_cls, config)
    folder = root / dataset / config
    prepared = _newest_version(folder, version)
    if prepared is None:
      _require_manual_files(builder_cls, root)
      name = dataset + (config and f"/{config}") + (version and f":{version}")
      return (
        folder,
        version,
        [
          "build",
          name,
          "--file_format=array_record",
          f"--data_dir={root}",
          # Without this, `tfds` takes a folder NAME in the current folder
          # for a builder.
          "--imports=tensorflow_datasets",
        ],
      )
  # The final check must look at the version that is converted here.
  version = prepared.name
  if _has_array_record(prepared):
    return folder, version, []
  return (
    folder,
    version,
    [
      "convert_format",
      f"--dataset_version_dir={prepared}",
      "--out_file_format=array_record",
      # With more workers TFDS 4.9.10 drops their errors and exits with 0.
      "--num_workers=1",
    ],
  )


def _call(command: list[str]) -> int:
  """Runs a command, all of whose output goes to stderr; returns its status."""
  return subprocess.call(command, stdout=_STDERR)


def prepare(
  name: str,
  data_dir: str,
  venv: str = "",
  dry_run: bool = False,
  run: Callable[[list[str]], int] = _call,
) -> None:
  """Builds or converts a TFDS set as array_record.

  Args:
    name: `NAME[/CONFIG][:VERSION]`; without CONFIG, TFDS's default config.
    data_dir: A local folder with the layout of TFDS.
    venv: Folder of the virtual environment, created if missing; '' uses a
      temporary one.
    dry_run: Prints the commands without running them.
    run: Runs a command and returns its exit status.

  Raises:
    InputError: The name, folder or environment cannot be used, or a command
      fails.
  """
  root = user_paths.local(data_dir)
  if "://" in user_paths.expand(data_dir):
    raise InputError(
      f"--data_dir={data_dir} is not a local folder; prepare the set in one "
      "and copy it"
    )
  root = root.absolute()
  if root.exists() and not root.is_dir():
    raise InputError(f"--data_dir={data_dir} is not a folder")
  with progress.activity("asking TFDS"):
    folder, version, tfds_args = _plan(name, root)
  if not tfds_args:
    print(f"{folder / version} is array_record already; nothing to do")
    return

  with contextlib.ExitStack() as stack:
    if venv:
      env = user_paths.local(venv).absolute()
      _check_venv(env)
    else:
      env = Path(
        stack.enter_context(tempfile.TemporaryDirectory(prefix="bit_jax-tfds-"))
      )
    bin_dir = env / "bin"
    # In an environment kept from an earlier run, the first two do next to
    # nothing.
    for command in (
      [sys.executable, "-m", "venv", str(env)],
      [f"{bin_dir}/python", "-m", "pip", "install", "--quiet", *_REQUIREMENTS],
      [f"{bin_dir}/tfds", *tfds_args],
    ):
      text = f"$ {shlex.join(command)}"
      if dry_run:
        print(text)
        continue
      progress.say(text)
      with progress.activity(f"running {Path(command[0]).name}"):
        status = run(command)
      if status:
        raise InputError(
          f"{Path(command[0]).name} {shlex.join(command[1:3])} failed with "
          f"exit status {status}; its own message is above"
        )
  if dry_run:
    return

  # An exit status of 0 proves nothing: tfds skips files that it cannot read.
  prepared = _newest_version(folder, version)
  if prepared is None or not _has_array_record(prepared):
    raise InputError(
      f"tfds ended without array_record files in {folder}; remove half-made "
      "*.array_record* files there and run this again"
    )
  print(f"{prepared} is ready")


def main(argv: list[str] | None = None) -> int:
  """Runs the command line and returns the exit status."""
  parser = command_line.Parser("bit_jax.tools.prepare", __doc__)
  parser.add_argument("name", metavar="NAME", help="NAME[/CONFIG][:VERSION]")
  parser.add_argument(
    "--data_dir", metavar="DIR", required=True, help="folder of the TFDS sets"
  )
  parser.add_argument(
    "--venv",
    metavar="PATH",
    default="",
    help="virtual environment to use and keep (default: a temporary one)",
  )
  parser.add_argument(
    "--dry_run", action="store_true", help="print the commands only"
  )
  args = parser.parse_args(argv)
  return exit_status(
    lambda: prepare(args.name, args.data_dir, args.venv, args.dry_run)
  )


if __name__ == "__main__":
  sys.exit(main())
