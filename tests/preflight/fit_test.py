from bit_jax.data.source import DatasetInfo
from bit_jax.preflight import aot
from bit_jax.preflight.fit import Preflight
from tests import fakes

MIB = 2**20


def make_flight(config, mesh, usable_bytes, temp_bytes=64 * MIB):
  """A Preflight with a fake compiler; `compiled` lists the steps it got."""
  compiled = []

  def compiler(config, mesh):
    compiled.append((config.parallel.shard_state, config.optim.accum_steps))
    return aot.StepCost(
      argument_bytes=aot.argument_bytes(config, mesh),
      temp_bytes=temp_bytes // config.optim.accum_steps,
    )

  info = DatasetInfo(1000, 10, (32, 32))
  flight = Preflight(config, info, mesh, usable_bytes, compiler)
  return flight, compiled


def test_exactly_what_there_is_fits(mesh):
  flight, _ = make_flight(fakes.upstream_config(), mesh, MIB)
  flight.usable_bytes = flight.attempt({}).total_bytes
  assert flight.attempt({}).fits
  flight.usable_bytes -= 1
  assert flight.attempt({}).fits is False


def test_alternatives_depend_on_config_and_devices(mesh, one_device):
  shard = {"parallel.shard_state": True}
  two, four, eight = ({"optim.accum_steps": parts} for parts in (2, 4, 8))

  def alternatives(config, mesh):
    return list(make_flight(config, mesh, MIB)[0].alternatives())

  def twice(*overrides):
    """The expected overrides, then all of them with rematerialization."""
    again = {"model.remat": "unit"}
    return [*overrides, again, *(each | again for each in overrides)]

  whole = fakes.upstream_config(batch_size=8)
  assert alternatives(whole, mesh) == twice(shard, two, shard | two)
  assert alternatives(whole, one_device) == twice(two, four, eight)
  sharded = fakes.upstream_config(batch_size=8, parallel__shard_state=True)
  assert alternatives(sharded, mesh) == twice(two)
  halved = fakes.upstream_config(optim__accum_steps=2)
  assert alternatives(halved, mesh) == twice(shard, four, shard | four)
  # BatchNorm needs the statistics of the whole batch, so it cannot be split.
  assert alternatives(fakes.upstream_config(model__norm="bn"), mesh) == twice(
    shard
  )
  least = fakes.upstream_config(batch_size=8, model__remat="stage")
  assert alternatives(least, mesh) == [shard, two, shard | two]


def test_the_first_alternative_that_fits_is_found(mesh):
  flight, compiled = make_flight(fakes.upstream_config(), mesh, 20 * MIB)
  told = []
  fitting, tried = flight.find_fitting(told.append)
  # 64 MiB of temporaries become 16 in four parts; the arguments are 3.9 MiB.
  assert fitting is tried[-1]
  assert fitting.overrides == {"optim.accum_steps": 4}
  assert compiled == [(True, 1), (False, 2), (True, 2), (False, 4)]
  assert [attempt.fits for attempt in tried] == [False, False, False, True]
  assert told == tried


def test_arguments_alone_too_large_are_not_compiled(mesh):
  # The state takes 3.9 MiB replicated and 1.0 sharded, so accumulation alone
  # cannot help.
  flight, compiled = make_flight(
    fakes.upstream_config(), mesh, 3 * MIB, temp_bytes=MIB
  )
  fitting, _ = flight.find_fitting(lambda _: None)
  assert fitting
  assert fitting.overrides == {"parallel.shard_state": True}
  assert compiled == [(True, 1)]
  flight, compiled = make_flight(
    fakes.upstream_config(), mesh, 3 * MIB, temp_bytes=7 * MIB
  )
  assert flight.find_fitting(lambda _: None)[0]
  assert compiled == [(True, 1), (True, 2), (True, 4)]


def test_nothing_fits(mesh):
  flight, compiled = make_flight(
    fakes.upstream_config(), mesh, MIB, temp_bytes=8 * MIB
  )
  assert flight.find_fitting(lambda _: None)[0] is None
  # Sharded and in parts, then both again with rematerialization.
  assert compiled == 2 * [(True, 1), (True, 2), (True, 4)]
