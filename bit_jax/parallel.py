"""The mesh, what is replicated or split on it, and this host's share.

One axis, `data`: batches are split over it, the train state is replicated. The
update step is written for the global batch, so its result depends on the number
of devices only through the order of summation.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bit_jax.errors import InputError


def make_mesh(devices: Sequence[Any] | None = None) -> Mesh:
  """Returns a mesh over all devices, in order of their hosts.

  Args:
    devices: the devices to use; None for all.
  """
  # Host by host, so that each host's rows of a batch are contiguous.
  devices = sorted(devices or jax.devices(), key=lambda d: d.process_index)
  return Mesh(np.asarray(devices), ("data",))


def replicated(mesh: Mesh) -> NamedSharding:
  """Sharding of what every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
  """Sharding of a batch: rows split over the devices."""
  return NamedSharding(mesh, PartitionSpec("data"))


def check_batch_size(batch_size: int, mesh: Mesh, key: str) -> None:
  """Raises InputError unless every device gets equally many rows."""
  if batch_size <= 0 or batch_size % mesh.size:
    raise InputError(
      f"{key}={batch_size}: expected a positive multiple of the number of "
      f"devices, {mesh.size}"
    )


def to_global(batch: Any, mesh: Mesh) -> Any:
  """Makes global arrays, split over the mesh, of this host's rows.

  Args:
    batch: a tree of NumPy arrays [rows of this host, ...].
    mesh: as of `make_mesh`.

  Returns:
    The tree with jax.Arrays [rows of all hosts, ...].
  """
  sharding = split(mesh)
  return jax.tree.map(
    lambda x: jax.make_array_from_process_local_data(sharding, x), batch
  )
