"""The mesh of devices, and the sharding of batches and states on it.

The mesh has one axis, `data`. Batches are split over it. The train state is
replicated, or, for models that do not fit, split as well and gathered when it
is used. The update step is written for the global batch, so that its result
depends on the number of devices only through the order of summation.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bit_jax.errors import InputError


def make_mesh(devices: Sequence[Any] | None = None) -> Mesh:
  """Returns a mesh over devices, in the order of their hosts.

  Args:
    devices: The devices to use; None for all.
  """
  # Devices are ordered by host so that each host's rows of a batch are
  # contiguous.
  devices = sorted(devices or jax.devices(), key=lambda d: d.process_index)
  return Mesh(np.asarray(devices), ("data",))


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of arrays that every device has a full copy of."""
  return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of a batch, [rows, ...]: rows split over devices."""
  return NamedSharding(mesh, PartitionSpec("data"))


def split_rows(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of parts of a batch, [parts, rows, ...]."""
  return NamedSharding(mesh, PartitionSpec(None, "data"))


def state_sharding(abstract_state: Any, mesh: Mesh, *, shard: bool) -> Any:
  """Returns the sharding of each array of a train state.

  Args:
    abstract_state: Tree of arrays or jax.ShapeDtypeStruct.
    mesh: The mesh, from `make_mesh`.
    shard: True to split each array along its longest axis that is a multiple of
      the number of devices. Arrays without such an axis are small, and
      replicated. False to replicate all arrays.

  Returns:
    Tree of NamedSharding.
  """

  def choose(x):
    axes = [i for i, n in enumerate(x.shape) if n and n % mesh.size == 0]
    if not shard or not axes:
      return replicated(mesh)
    axis = max(axes, key=lambda i: x.shape[i])
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, "data"))

  return jax.tree.map(choose, abstract_state)


def abstract(tree: Any, where: NamedSharding | None = None) -> Any:
  """Returns arrays as jax.ShapeDtypeStruct, all with one sharding or none."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), tree
  )


def gathered(tree: Any, mesh: Mesh) -> Any:
  """Constrains the arrays to be replicated (inside jit)."""
  return jax.lax.with_sharding_constraint(tree, replicated(mesh))


def to_host(tree: Any, mesh: Mesh) -> Any:
  """Returns arrays of any sharding as NumPy arrays on every host.

  All hosts must call it. Arrays that a host does not have all parts of are
  gathered on the devices, one at a time.

  Args:
    tree: Tree of jax.Array.
    mesh: The mesh, from `make_mesh`.
  """

  def read(x):
    # A gather is compiled for every shape, which takes seconds in total.
    if not (x.is_fully_replicated or x.is_fully_addressable):
      x = _make_gather(mesh)(x)
    return np.asarray(x)

  return jax.tree.map(read, tree)


def to_devices(tree: Any, mesh: Mesh) -> Any:
  """Returns replicated arrays; all hosts must call it.

  Args:
    tree: Tree of NumPy arrays, equal on all hosts, or of jax.Array of any
      sharding. Arrays that are replicated already are not copied.
    mesh: The mesh, from `make_mesh`.

  Returns:
    Tree of jax.Array that every device has a full copy of.
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
  """Checks that a batch can be split evenly over the devices.

  Args:
    batch_size: Rows of a global batch.
    mesh: The mesh, from `make_mesh`.
    key: The config key or flag, for the message.

  Raises:
    InputError: The size is not a positive multiple of the number of devices.
  """
  if batch_size <= 0 or batch_size % mesh.size:
    raise InputError(
      f"{key}={batch_size}: expected a positive multiple of the number of "
      f"devices, {mesh.size}"
    )


def to_global(batch: Any, mesh: Mesh) -> Any:
  """Makes global arrays, split over the mesh, from the rows of each host.

  Args:
    batch: Tree of NumPy arrays [rows of this host, ...].
    mesh: The mesh, from `make_mesh`.

  Returns:
    Tree of jax.Array [rows of all hosts, ...].
  """
  sharding = split(mesh)
  return jax.tree.map(
    lambda x: jax.make_array_from_process_local_data(sharding, x), batch
  )
