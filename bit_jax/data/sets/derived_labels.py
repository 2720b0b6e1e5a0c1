"""Derives labels from other features of a data set, for the tasks of VTAB.

These tasks (arXiv 1910.04867; google-research/task_adaptation, data/*.py) count
objects, bin distances and merge neighbouring positions. Each derivation maps
the value of one TFDS feature, as `as_data_source` decodes it, to a class. A
value that no class covers becomes a label outside the class list, for which the
pipeline raises an error.
"""

import bisect
import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# A TFDS `Sequence` of dicts, as it is decoded: {key: one value per object}.
Objects = Mapping[str, Sequence[Any]]

_CLEVR_EDGES = (0.0, 8.0, 8.5, 9.0, 9.5, 10.0, 100.0)
_KITTI_EDGES = (-100.0, 8.0, 20.0, 999.0)
# KITTI's first three types: car, van, truck.
_KITTI_VEHICLES = 3
# The distance of a vehicle that is not there: beyond the last edge.
_KITTI_NONE = 1000.0


def bin_index(value: float, edges: Sequence[float]) -> int:
  """Returns the index of the last edge strictly below value, or -1."""
  return bisect.bisect_left(edges, value) - 1


def clevr_count(objects: Objects) -> int:
  """Returns the number of objects (3 to 10) minus 3."""
  return len(objects["size"]) - 3


def clevr_distance(objects: Objects) -> int:
  """Returns the bin of the closest object's depth, pixel_coords[:, 2]."""
  depths = (float(xyz[2]) for xyz in objects["pixel_coords"])
  return bin_index(min(depths, default=float("inf")), _CLEVR_EDGES)


def dsprites_orientation(label: int) -> int:
  """Merges the 40 orientations into 16 classes of 2.5."""
  return int(label) * 16 // 40


def dsprites_xpos(label: int) -> int:
  """Merges the 32 horizontal positions into 16 classes of 2."""
  return int(label) * 16 // 32


def kitti_distance(objects: Objects) -> int:
  """Returns the bin of the closest vehicle's z in metres; 3 for no vehicle."""
  depths = (
    float(xyz[2])
    for kind, xyz in zip(objects["type"], objects["location"], strict=True)
    if kind < _KITTI_VEHICLES
  )
  return bin_index(min(depths, default=_KITTI_NONE), _KITTI_EDGES)


@dataclasses.dataclass(frozen=True)
class Derived:
  """A label derived from one feature.

  Attributes:
    feature: Name of the TFDS feature.
    label: Maps the feature's value to a class (or to a list of classes).
    class_names: One name per class.
  """

  feature: str
  label: Callable[[Any], Any]
  class_names: tuple[str, ...]


def _intervals(edges: Sequence[float]) -> tuple[str, ...]:
  pairs = itertools.pairwise(edges)
  return tuple(f"({low:g}, {high:g}]" for low, high in pairs)


def _numbers(start: int, stop: int) -> tuple[str, ...]:
  return tuple(str(number) for number in range(start, stop))


# `config.data.label_key` is one of these, or a feature of the set.
DERIVED = {
  "clevr_count": Derived("objects", clevr_count, _numbers(3, 11)),
  "clevr_distance": Derived(
    "objects", clevr_distance, _intervals(_CLEVR_EDGES)
  ),
  "dsprites_orientation": Derived(
    "label_orientation", dsprites_orientation, _numbers(0, 16)
  ),
  "dsprites_xpos": Derived("label_x_position", dsprites_xpos, _numbers(0, 16)),
  "kitti_distance": Derived(
    "objects", kitti_distance, (*_intervals(_KITTI_EDGES), "no vehicle")
  ),
}
