"""Checks that a step fits in device memory; searches for settings if not.

Every attempt compiles the step ahead of time.
"""

import dataclasses
import functools
import itertools
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jax.sharding import Mesh

from bit_jax.data.source import DatasetInfo
from bit_jax.preflight import aot, parts
from bit_jax.recipe import check, resolve
from bit_jax.recipe.load import Config
from bit_jax.run import start


@dataclasses.dataclass(frozen=True)
class Attempt:
  """A compiled step and the verdict on it.

  Attributes:
    overrides: The replaced config keys, e.g. {"optim.accum_steps": 2}.
    cost: Memory and cost of the step on one device.
    total_bytes: Memory of the step and of the waiting batches on one device.
    fits: True if the step fits; None if the device's memory is unknown.
  """

  overrides: dict[str, Any]
  cost: aot.StepCost
  total_bytes: int
  fits: bool | None


class Preflight:
  """Compiles the step of one config and its variants for one mesh.

  Attributes:
    config: The resolved config.
    mesh: The mesh to compile for.
    usable_bytes: Memory that a program may use on one device; 0 if unknown.
    waiting_bytes: Memory of the batches that wait on one device.
    chooses_parts: True if the config leaves the number of parts open.
  """

  def __init__(
    self,
    config: Config,
    info: DatasetInfo,
    mesh: Mesh,
    usable_bytes: int,
    compiler: Callable[[Config, Mesh], aot.StepCost],
  ):
    """Checks and resolves the config.

    Args:
      config: The config before it is resolved.
      info: Properties of the training set.
      mesh: The mesh of the devices to compile for.
      usable_bytes: Memory that a program may use on one device; 0 if unknown.
      compiler: Compiles a resolved config for a mesh: `aot.compile_step`.

    Raises:
      InputError: The config cannot work.
    """
    self.mesh, self.usable_bytes = mesh, usable_bytes
    self._config = config.copy_and_resolve_references()
    self._info, self._compiler = info, compiler
    # Where the config leaves the number open, one part is what is asked for.
    self.chooses_parts = not config.optim.accum_steps
    self._config.optim.accum_steps = max(1, config.optim.accum_steps)
    self.config = self._resolve({})
    spec, _ = start.make_spec(self.config, mesh)
    batch = aot.abstract_batch(self.config, spec)
    self.waiting_bytes = parts.WAITING_BATCHES * aot.device_bytes(batch)

  def _resolve(self, overrides: Mapping[str, Any]) -> Config:
    config = self._config.copy_and_resolve_references()
    config.update_from_flattened_dict(overrides)
    check.check(config, self.mesh)
    return resolve.resolve(config, self._info)

  def attempt(self, overrides: Mapping[str, Any]) -> Attempt:
    """Compiles the step of the config with some keys replaced."""
    cost = self._compiler(self._resolve(overrides), self.mesh)
    total = cost.total_bytes + self.waiting_bytes
    fits = None
    if cost.refusal:
      fits = False
    elif self.usable_bytes:
      fits = total <= self.usable_bytes
    return Attempt(dict(overrides), cost, total, fits)

  def choose_parts(self, log: Callable[[str], object]) -> int:
    """Returns the number of parts that bit_jax.main chooses; see `parts`."""
    spec, fixed = start.make_spec(self.config, self.mesh)

    def compiler(spec, config, fixed):
      del config, fixed
      return self.attempt({"optim.accum_steps": spec.accum_steps}).cost

    return parts.choose(
      spec,
      self.config,
      fixed,
      log,
      usable_bytes=self.usable_bytes,
      compiler=compiler,
    )

  def alternatives(self) -> Iterator[dict[str, Any]]:
    """Yields overrides that need less memory, the least intrusive first."""
    config, rows = self.config, self.config.input.batch_size // self.mesh.size
    shard = [{}]
    if self.mesh.size > 1 and not config.parallel.shard_state:
      shard.append({"parallel.shard_state": True})
    accumulate, count = [{}], 2 * config.optim.accum_steps
    while rows % count == 0 and config.model.norm != "bn":
      accumulate.append({"optim.accum_steps": count})
      count *= 2
    # Rematerialization comes last, as each step then computes a third more.
    rematerialize = [{}]
    if config.model.remat in ("none", "norm"):
      rematerialize.append({"model.remat": "unit"})
    for changes in itertools.product(rematerialize, accumulate, shard):
      if overrides := functools.reduce(operator.or_, reversed(changes)):
        yield overrides

  def find_fitting(
    self, log: Callable[[Attempt], object]
  ) -> tuple[Attempt | None, list[Attempt]]:
    """Compiles alternatives until one fits.

    Args:
      log: Called with each attempt.

    Returns:
      (fitting, tried): the attempt that fits, or None, and all attempts.
    """
    tried = []
    for overrides in self.alternatives():
      arguments = aot.argument_bytes(self._resolve(overrides), self.mesh)
      if self.usable_bytes and arguments > self.usable_bytes:
        # State and batch alone exceed the memory, so compiling is in vain.
        continue
      tried.append(self.attempt(overrides))
      log(tried[-1])
      if tried[-1].fits:
        return tried[-1], tried
    return None, tried
