"""Robustness benchmarks, labelled with the outputs of a classifier.

A benchmark may have other classes than the classifier, or several right answers
for an image. It becomes a multi-label source: the label of an example lists the
outputs that count as right, and examples without any are left out.
`metrics.evaluate_split` computes the accuracy; its loss has no meaning here.
All outputs compete, including those of classes that the set does not contain.
"""

import collections
import dataclasses
import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from bit_jax.data import datasets, decode, subset
from bit_jax.data.sets import folder
from bit_jax.data.source import Source
from bit_jax.errors import InputError, did_you_mean, nearest, some
from bit_jax.evaluate.label_map import match_classes
from bit_jax.storage import user_paths

# {benchmark: (TFDS name, feature of the label, split)}.
_TFDS = {
  # arXiv 2006.07159. Its README (google-research/reassessed-imagenet) leaves
  # images without any label out of the evaluation.
  "real": ("imagenet2012_real", "real_label", "validation"),
  # arXiv 1902.10811 selects images in three ways, which are the configs.
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
# What the name of a benchmark begins with.
KINDS = (*_TFDS, "objectnet", "folder")
# ObjectNet's images have a red border of 1 px (objectnet.dev/download.html).
# The authors' code, objectnet-template-pytorch, cuts 2 px; according to
# modestyachts/imagenet-testbed issue 13 the numbers hardly differ.
_OBJECTNET_BORDER_PX = 1


@dataclasses.dataclass(frozen=True)
class Benchmark(Source):
  """An image set labelled with the outputs of one classifier.

  Attributes:
    left_out: Number of examples left out because no output is right for them.
    unmatched: Classes of the set that match no output of the classifier.
    assumed_order: True if the classifier has no class names and its outputs
      were assumed to be in the order of the set's classes.
    trained_on: Number of examples left out because the classifier was trained
      on them.
    members: {class of the set: int64 array of the indices of its examples}.
  """

  left_out: int = 0
  unmatched: tuple[str, ...] = ()
  assumed_order: bool = False
  trained_on: int = 0
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
  without: Callable[[Source], Collection[int]] = lambda _: (),
) -> Benchmark:
  """Opens a benchmark for a classifier.

  Args:
    benchmark: `real`, `imagenet_v2[/CONFIG]`, `objectnet:PATH` or
      `folder:PATH`. PATH holds one folder of images per class; for ObjectNet it
      may also be the distributed folder with `images` and `mappings`.
    class_names: Names of the classifier's outputs, in order, or their numbers
      as text if they have no names.
    split: Split of a TFDS set, e.g. `validation[:1000]`; '' for the benchmark's
      own.
    data_dir: Folder of the TFDS sets.
    label_map: Label map, as label_map.py describes: a JSON file or ObjectNet's
      folder `mappings`. '' matches by name, but for ObjectNet it takes the
      folder `mappings` beside the images.
    border_px: Width of the border to cut off each side of the images; -1 means
      1 for ObjectNet and 0 for others.
    cache_dir: Folder that caches the scan of an image folder; '' for none.
    without: As in `relabel`.

  Raises:
    InputError: There is no such benchmark, it cannot be read, or `relabel`
      fails.
  """
  kind, _, path = benchmark.partition(":")
  if kind in ("objectnet", "folder") and path:
    if split:
      raise InputError(f"{benchmark} has no splits, so no {split!r}")
    root = user_paths.local(path)
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
      "objectnet:PATH or folder:PATH" + did_you_mean(nearest(benchmark, KINDS))
    )
  return relabel(
    source,
    class_names,
    label_map=label_map,
    border_px=max(border_px, 0),
    without=without,
  )


def relabel(
  source: Source,
  class_names: Sequence[str],
  *,
  label_map: str = "",
  border_px: int = 0,
  without: Callable[[Source], Collection[int]] = lambda _: (),
) -> Benchmark:
  """Labels an image set with the outputs of a classifier.

  Reads the labels of all examples.

  Args:
    source: The set with its own classes.
    class_names: Names of the classifier's outputs, in order, or their numbers
      as text if they have no names.
    label_map: Label map, as label_map.py describes; '' matches by name.
    border_px: Width of the border to cut off each side of the images.
    without: Returns the indices of the images that the classifier was trained
      on, which are left out.

  Returns:
    A multi-label source whose classes are the outputs.

  Raises:
    InputError: No image shows a class of the classifier, or `match_classes`
      fails.
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
  seen = frozenset(map(int, without(source)))
  if len(seen) == len(source):
    raise InputError(
      f"{source.name}: the weights were trained on all of its {len(source)} "
      f"images; --include_trained evaluates them on these nevertheless"
    )
  kept, targets, members = [], [], collections.defaultdict(list)
  for index, classes in enumerate(labels):
    if index in seen:
      continue
    # TFDS marks a missing label with -1.
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
  if source.files:
    changed["files"] = subset.take(source, kept, source.name).files
  pairs = zip(source.class_names, rights, strict=True)
  return Benchmark(
    **vars(source) | changed,
    left_out=len(source) - len(kept) - len(seen),
    trained_on=len(seen),
    unmatched=tuple(name for name, right in pairs if not right),
    assumed_order=assumed_order,
    members={name: np.asarray(members[name]) for name in sorted(members)},
  )


@dataclasses.dataclass(frozen=True)
class _Relabelled:
  """Selected examples of a set, labelled with the outputs that are right.

  Attributes:
    source: The set.
    kept: Indices of the selected examples.
    targets: Sorted outputs that are right for each selected example.
    border_px: Width of the border to cut off each side of the images.
  """

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
