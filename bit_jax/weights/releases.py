"""The officially released weights: their names, variants and classes.

A release has its name in the official bucket, without `.npz`: `BiT-M-R50x1`,
`BiT-M-R50x1-ILSVRC2012`, `vtab/BiT-M-R50x1-run0-caltech101`,
`distill/R50x1_224`. Its file is taken from a local folder, which is laid out
like the bucket, and downloaded to it if it is not there.
"""

import difflib
import http.client
import importlib.resources
import os
import pathlib
import urllib.request

from bit_jax import models, progress
from bit_jax.errors import InputError
from bit_jax.storage import cache, user_paths

URL = "https://storage.googleapis.com/bit_models"

# README of google-research/big_transfer.
_VTAB_VARIANTS = ("R50x1", "R101x1", "R50x3", "R101x3", "R152x4")
_VTAB_TASKS = (
  *("caltech101", "cifar100", "clevr-count", "clevr-distance", "dmlab"),
  *("diabetic_retinopathy", "dsprites-orientation", "dsprites-xpos", "dtd"),
  *("eurosat", "kitti-distance", "oxford_flowers102", "oxford_iiit_pet"),
  *("patch_camelyon", "resisc45", "smallnorb-azimuth", "smallnorb-elevation"),
  *("sun397", "svhn"),
)
_ILSVRC2012 = {
  **{f"BiT-S-{variant}": variant for variant in models.VARIANTS},
  **{f"BiT-M-{variant}-ILSVRC2012": variant for variant in models.VARIANTS},
  "distill/R50x1_160": "R50x1",
  "distill/R50x1_224": "R50x1",
  "distill/R152x2_T_224": "R152x2",
  "distill/R152x2_T_384": "R152x2",
}

# Variants of all releases, by name.
VARIANTS = {
  **_ILSVRC2012,
  **{f"BiT-M-{variant}": variant for variant in models.VARIANTS},
  **{
    f"vtab/BiT-M-{variant}-run{run}-{task}": variant
    for variant in _VTAB_VARIANTS
    for run in range(3)
    for task in _VTAB_TASKS
  },
  # Teachers; big_vision/configs/proj/distill/common.py.
  **{
    f"distill/R152x2_T_{task}128": "R152x2"
    for task in ("flowers", "food", "pet", "sun")
  },
}
_BY_STEM = {name.rsplit("/", 1)[-1]: name for name in VARIANTS}


def similar(name: str) -> list[str]:
  """Returns up to three releases of similar names.

  If a name differs by upper case or `.npz` only, this is the only one.
  """
  by_lower = {release.lower(): release for release in VARIANTS}
  lower = name.removesuffix(".npz").lower()
  if lower in by_lower:
    return [by_lower[lower]]
  found = difflib.get_close_matches(lower, by_lower, cutoff=0.8)
  return [by_lower[release] for release in found]


def of_file(stem: str) -> str:
  """Returns the release whose file is called `STEM.npz`, or ''."""
  return _BY_STEM.get(stem, "")


def class_names(release: str) -> tuple[str, ...]:
  """Returns the class names of a release: WordNet ids, as in TFDS.

  They are in ascending order, which is the order of the official weights'
  outputs.

  Args:
    release: Name of the release.

  Returns:
    The 1000 names of ImageNet-1k; () for a release with other or unknown
    classes.
  """
  return imagenet_names() if release in _ILSVRC2012 else ()


def imagenet_names() -> tuple[str, ...]:
  """Returns the WordNet ids of ImageNet-1k's classes, in ascending order."""
  tfds = importlib.resources.files("tensorflow_datasets")
  return tuple((tfds / "datasets/imagenet2012/labels.txt").read_text().split())


def local_dir() -> pathlib.Path:
  """Returns $BIT_WEIGHTS_DIR, or else a folder in the user's cache."""
  folder = user_paths.expand(os.environ.get("BIT_WEIGHTS_DIR", ""))
  return pathlib.Path(folder) if folder else cache.folder("weights")


def fetch(release: str) -> pathlib.Path:
  """Returns the local file of a release, downloading it if it is missing.

  Args:
    release: Name of the release, one of VARIANTS.

  Raises:
    InputError: The file is missing and cannot be downloaded; the message says
      where to get it and where to put it.
  """
  path = local_dir() / f"{release}.npz"
  if path.exists():
    return path
  url = f"{URL}/{release}.npz"
  try:
    _download(url, path)
  except (OSError, http.client.HTTPException) as e:
    raise InputError(
      f"release {release} could not be downloaded ({e}): get {url} and put it "
      f"at {path}"
    ) from e
  return path


def _download(url: str, path: pathlib.Path) -> None:
  """Downloads a file, which appears under its name only when complete."""
  path.parent.mkdir(parents=True, exist_ok=True)
  # Several processes may download the same file at the same time.
  part = path.with_name(f"{path.name}.{os.getpid()}.part")
  try:
    with urllib.request.urlopen(url, timeout=30) as response:
      size = response.headers["Content-Length"]
      total = None if size is None else int(size)
      progress.say(f"downloading {url} to {path.parent}")
      with (
        part.open("wb") as f,
        progress.activity(
          f"downloading {path.name}", (total or 0) >> 20, "MiB"
        ) as doing,
      ):
        while block := response.read(1 << 20):
          f.write(block)
          doing.add()
    arrived = part.stat().st_size
    if total is not None and arrived != total:
      raise OSError(f"{arrived} of {total} bytes arrived")
    part.replace(path)
  finally:
    part.unlink(missing_ok=True)
