"""Robustness benchmarks of a classifier, as sources over its own classes.

A set whose classes are not the classifier's, or with several right answers for
an image, becomes a multi-label source: the label of an example is the list of
the classifier's outputs that count as right, and examples without any are left
out. `metrics.evaluate_split` counts the hits; its loss means nothing then. All
outputs compete, also those of classes that do not occur in the set.
"""

import collections
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bit_jax.data import datasets, decode
from bit_jax.data.sets import folder
from bit_jax.data.source import Source
from bit_jax.errors import InputError, some
from bit_jax.evaluate.label_map import match_classes

# TFDS name, feature of the label, split.
_TFDS = {
  # arXiv 2006.07159. Images without any label are not evaluated (README of
  # google-research/reassessed-imagenet).
  "real": ("imagenet2012_real", "real_label", "validation"),
  # arXiv 1902.10811, with its three ways to choose images.
  "imagenet_v2": ("imagenet_v2/matched-frequency", "label", "test"),
  **{
    name: (name, "label", "test")
    for name in (
      "imagenet_v2/matched-frequency",
      "imagenet_v2/threshold-0.7",
      "imagenet_v2/topimages",
    )
  },
}
# Its red border is 1 px wide (objectnet.dev/download.html). Its authors' code,
# objectnet-template-pytorch, cuts 2 px; the numbers hardly differ, says
# modestyachts/imagenet-testbed issue 13.
_OBJECTNET_BORDER_PX = 1


@dataclasses.dataclass(frozen=True)
class Benchmark(Source):
  """An image set labelled with the outputs of one classifier.

  Attributes:
    left_out: examples that are not counted: no output is right for them.
    unmatched: classes of the set that are none of the classifier's.
    assumed_order: True where the classifier has no class names, so that its
      outputs were taken to be in the order of the set's classes.
    members: {class of the set: int64 indices of its examples}.
  """

  left_out: int = 0
  unmatched: tuple[str, ...] = ()
  assumed_order: bool = False
  members: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


def load(
  benchmark: str,
  class_names: Sequence[str],
  *,
  split: str = "",
  data_dir: str = "",
  label_map: str = "",
  border_px: int = -1,
  cache_dir: str = "",
) -> Benchmark:
  """Opens a benchmark for a classifier.

  Args:
    benchmark: `real`, `imagenet_v2[/CONFIG]`, `objectnet:PATH` or
      `folder:PATH`. PATH holds one folder of images a class; ObjectNet's may
      also be that of its distribution, with `images` and `mappings`.
    class_names: the classifier's outputs, see `label_map.match_classes`.
    split: of a TFDS set, e.g. `validation[:1000]`; '': what is evaluated.
    data_dir: where TFDS sets are.
    label_map: see label_map.py; ObjectNet needs one, '': the one beside it.
    border_px: cut off each side of the images; -1: 1 for ObjectNet, else 0.
    cache_dir: where the scan of a folder is remembered; '': nowhere.

  Raises:
    InputError: there is no such benchmark, it cannot be read, or `relabel`
      raises it.
  """
  kind, _, path = benchmark.partition(":")
  if kind in ("objectnet", "folder") and path:
    if split:
      raise InputError(f"{benchmark} has no splits, so no {split!r}")
    root = pathlib.Path(path).expanduser()
    if kind == "objectnet":
      root = root / "images" if (root / "images").is_dir() else root
      border_px = _OBJECTNET_BORDER_PX if border_px < 0 else border_px
      beside = root.parent / "mappings"
      if root.is_dir() and not label_map and not beside.is_dir():
        raise InputError(
          f"{benchmark} needs a label map to ImageNet's class names: there is "
          f"no {beside}; give that folder of ObjectNet, or a JSON file, as "
          "--label_map"
        )
      label_map = label_map or str(beside)
    source = folder.load_all(str(root), cache_dir=cache_dir)
  elif benchmark in _TFDS:
    dataset, key, whole = _TFDS[benchmark]
    source = datasets.load(
      dataset, split or whole, data_dir=data_dir, label_key=key
    )
  else:
    raise InputError(
      f"unknown benchmark {benchmark!r}: expected {', '.join(_TFDS)}, "
      "objectnet:PATH or folder:PATH"
    )
  return relabel(
    source, class_names, label_map=label_map, border_px=max(border_px, 0)
  )


def relabel(
  source: Source,
  class_names: Sequence[str],
  *,
  label_map: str = "",
  border_px: int = 0,
) -> Benchmark:
  """Labels an image set with the outputs of a classifier; reads all labels.

  Args:
    source: the set, with its own classes.
    class_names: as for `load`.
    label_map: see label_map.py; '': none.
    border_px: cut off each side of the images.

  Returns:
    A multi-label source whose classes are the outputs.

  Raises:
    InputError: no image shows a class of the classifier, or `match_classes`
      raises it.
  """
  outputs = tuple(class_names)
  rights, assumed_order = match_classes(
    source.class_names, outputs, label_map, source.name
  )
  labels: Any = (
    [source.examples[i]["label"] for i in range(len(source))]
    if source.multi_label
    else source.read_labels()[:, None]
  )
  kept, targets, members = [], [], collections.defaultdict(list)
  for index, classes in enumerate(labels):
    # TFDS marks a missing label by -1.
    known = [int(c) for c in classes if c >= 0 and rights[c]]
    if known:
      for name in {source.class_names[c] for c in known}:
        members[name].append(len(kept))
      kept.append(index)
      targets.append(sorted({output for c in known for output in rights[c]}))
  if not kept:
    raise InputError(
      f"{source.name}: none of its {len(source)} images shows a class of the "
      f"classifier ({some(outputs)})"
    )
  identity = json.dumps([source.fingerprint, kept, targets, border_px])
  changed = {
    "examples": _Relabelled(source, kept, targets, border_px),
    "class_names": outputs,
    "fingerprint": hashlib.sha256(identity.encode()).hexdigest()[:16],
    "read_labels": _no_single_labels,
    "multi_label": True,
  }
  pairs = zip(source.class_names, rights, strict=True)
  return Benchmark(
    **vars(source) | changed,
    left_out=len(source) - len(kept),
    unmatched=tuple(name for name, right in pairs if not right),
    assumed_order=assumed_order,
    members={name: np.asarray(members[name]) for name in sorted(members)},
  )


@dataclasses.dataclass(frozen=True)
class _Relabelled:
  """The examples of a set that are kept, with the outputs that are right."""

  source: Source
  kept: Sequence[int]
  targets: Sequence[Sequence[int]]
  border_px: int

  def __len__(self) -> int:
    return len(self.kept)

  def __getitem__(self, index: int) -> dict[str, Any]:
    name = f"{self.source.name} example {self.kept[index]}"
    example = {"name": name, **self.source.examples[self.kept[index]]}
    example["label"] = self.targets[index]
    if px := self.border_px:
      image = example["image"]
      if not isinstance(image, np.ndarray):
        image = decode.decode(image, example["name"])
      example["image"] = np.ascontiguousarray(image[px:-px, px:-px])
      if not example["image"].size:
        raise InputError(
          f"{example['name']}: nothing is left of {image.shape[0]} x "
          f"{image.shape[1]} px without a border of {px} px"
        )
    return example


def _no_single_labels() -> np.ndarray:
  raise InputError("the images of a benchmark may have several labels")
