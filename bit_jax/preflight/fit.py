"""Whether a step fits its devices, and what would make it fit.

Every attempt is a compilation, see `aot`.
"""

import dataclasses
import functools
import itertools
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jax.sharding import Mesh

from bit_jax.data.source import DatasetInfo
from bit_jax.preflight import aot
from bit_jax.recipe import check, resolve
from bit_jax.recipe.load import Config
from bit_jax.run import step

# `pipeline` keeps two batches on the devices, and makes a third, while a step
# has its own.
_WAITING_BATCHES = 3


@dataclasses.dataclass(frozen=True)
class Attempt:
  """A step that was compiled, and whether it fits.

  Attributes:
    overrides: of the config, e.g. {"optim.accum_steps": 2}.
    needs: of a device.
    total_bytes: needed, and kept for batches that wait.
    fits: None where the memory of a device is unknown.
  """

  overrides: dict[str, Any]
  needs: aot.Needs
  total_bytes: int
  fits: bool | None


class Preflight:
  """Compiles the step of one config, and variants of it, for one mesh."""

  def __init__(
    self,
    config: Config,
    info: DatasetInfo,
    mesh: Mesh,
    usable_bytes: int,
    compiler: Callable[[Config, Mesh], aot.Needs],
  ):
    """Checks the config.

    Args:
      config: not resolved.
      info: Of the training set.
      mesh: of the devices to compile for.
      usable_bytes: of a device; 0: unknown.
      compiler: `aot.compile_step`.

    Raises:
      InputError: the config cannot work.
    """
    self.mesh, self.usable_bytes = mesh, usable_bytes
    self._config, self._info = config, info
    self._compiler = compiler
    self.config = self._resolve({})
    batch = step.make_abstract_batch(self.config, mesh)
    self.waiting_bytes = _WAITING_BATCHES * aot.device_bytes(batch)

  def _resolve(self, overrides: Mapping[str, Any]) -> Config:
    config = self._config.copy_and_resolve_references()
    config.update_from_flattened_dict(overrides)
    check.check(config, self.mesh)
    return resolve.resolve(config, self._info)

  def attempt(self, overrides: Mapping[str, Any]) -> Attempt:
    """Compiles the step of the config with some keys replaced."""
    needs = self._compiler(self._resolve(overrides), self.mesh)
    total = needs.total_bytes + self.waiting_bytes
    fits = None
    if needs.refusal:
      fits = False
    elif self.usable_bytes:
      fits = total <= self.usable_bytes
    return Attempt(dict(overrides), needs, total, fits)

  def alternatives(self) -> Iterator[dict[str, Any]]:
    """Yields overrides that need less memory, the least intrusive first."""
    config, rows = self.config, self.config.input.batch_size // self.mesh.size
    shard = [{}]
    if self.mesh.size > 1 and not config.parallel.shard_state:
      shard.append({"parallel.shard_state": True})
    accumulate, parts = [{}], 2 * config.optim.accum_steps
    while rows % parts == 0 and config.model.norm != "bn":
      accumulate.append({"optim.accum_steps": parts})
      parts *= 2
    # Last, since it makes each step compute a third more.
    rematerialize = [{}]
    if config.model.remat in ("none", "norm"):
      rematerialize.append({"model.remat": "unit"})
    for parts in itertools.product(rematerialize, accumulate, shard):
      if overrides := functools.reduce(operator.or_, reversed(parts)):
        yield overrides

  def find_fitting(
    self, tell: Callable[[Attempt], object]
  ) -> tuple[Attempt | None, list[Attempt]]:
    """Compiles alternatives until one fits.

    Args:
      tell: called with each attempt.

    Returns:
      The one that fits, if any, and all that were compiled.
    """
    tried = []
    for overrides in self.alternatives():
      arguments = aot.argument_bytes(self._resolve(overrides), self.mesh)
      if self.usable_bytes and arguments > self.usable_bytes:
        continue  # Whatever else it needs.
      tried.append(self.attempt(overrides))
      tell(tried[-1])
      if tried[-1].fits:
        return tried[-1], tried
    return None, tried
