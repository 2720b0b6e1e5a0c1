"""The mesh, what is replicated or split on it, and this host's share.

One axis, `data`: batches are split over it; the train state is replicated, or,
for models that do not fit, split as well and gathered where it is used. The
update step is written for the global batch, so its result depends on the number
of devices only through the order of summation.
"""

import functools
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


def split_rows(mesh: Mesh) -> NamedSharding:
  """Sharding of parts of a batch, [parts, rows, ...]: rows split."""
  return NamedSharding(mesh, PartitionSpec(None, "data"))


def state_sharding(abstract_state: Any, mesh: Mesh, *, shard: bool) -> Any:
  """Returns where each array of a train state lives.

  Args:
    abstract_state: tree of arrays or jax.ShapeDtypeStruct.
    mesh: as of `make_mesh`.
    shard: True: each array is split along its longest axis that the devices
      divide; arrays without one are small, and replicated.

  Returns:
    A tree of NamedSharding.
  """

  def choose(x):
    axes = [i for i, n in enumerate(x.shape) if n and n % mesh.size == 0]
    if not shard or not axes:
      return replicated(mesh)
    axis = max(axes, key=lambda i: x.shape[i])
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, "data"))

  return jax.tree.map(choose, abstract_state)


def gathered(tree: Any, mesh: Mesh) -> Any:
  """Inside jit: has every device hold the arrays whole from here on."""
  return jax.lax.with_sharding_constraint(tree, replicated(mesh))


def to_host(tree: Any, mesh: Mesh) -> Any:
  """Returns arrays of any sharding as NumPy arrays, on every host.

  All hosts must call it. What a host cannot reach is gathered on the devices,
  one array at a time.
  """

  def read(x):
    # A gather is compiled for every shape: seconds, in all.
    if not (x.is_fully_replicated or x.is_fully_addressable):
      x = _make_gather(mesh)(x)
    return np.asarray(x)

  return jax.tree.map(read, tree)


def to_devices(tree: Any, mesh: Mesh) -> Any:
  """Returns arrays that every device holds whole; all hosts must call it.

  Args:
    tree: NumPy arrays, equal on all hosts, or jax.Array of any sharding. Those
      that are on every device already are not copied.
    mesh: as of `make_mesh`.
  """
  if all(
    getattr(x, "is_fully_replicated", True) for x in jax.tree.leaves(tree)
  ):
    return jax.device_put(tree, replicated(mesh))
  # device_put would compile a gather for every array.
  return _make_gather(mesh)(tree)


@functools.lru_cache(maxsize=8)
def _make_gather(mesh: Mesh):
  return jax.jit(lambda x: x, out_shardings=replicated(mesh))


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
