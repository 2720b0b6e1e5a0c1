import dataclasses

import jax
import pytest

from bit_jax.errors import InputError
from bit_jax.preflight import aot, host_memory, parts
from bit_jax.run import step
from tests import fakes

# A state of 0.9 MiB, and temporaries of 1 MiB an image.
IMAGE = 2**20


def make(mesh, **overrides):
  """Returns the spec and the resolved config of a batch of 64 images."""
  config = fakes.make_config(**{"input.batch_size": 64} | overrides)
  config = fakes.resolved(config)
  return fakes.spec(config, mesh), config


def choose(mesh, usable, *, fixed_bytes=0, **overrides):
  """Returns the choice, the compiled numbers of parts, and the lines."""
  spec, config = make(mesh, **overrides)
  compiled, lines = [], []

  def compiler(spec, config, fixed):
    assert fixed == ()
    compiled.append(spec.accum_steps)
    rows = config.input.batch_size // mesh.size // spec.accum_steps
    # Several parts need a sum of gradients.
    return aot.StepCost(
      argument_bytes=aot.argument_bytes(config, mesh),
      temp_bytes=rows * IMAGE + fixed_bytes * (1 + (spec.accum_steps > 1)),
    )

  found = parts.choose(
    spec, config, (), lines.append, usable_bytes=usable, compiler=compiler
  )
  return found, compiled, lines


def test_what_clearly_fits_is_not_compiled(one_device):
  assert choose(one_device, 2**36) == (1, [], [])


def test_unknown_memory_is_not_judged(one_device):
  assert choose(one_device, 0) == (1, [], [])


@pytest.mark.parametrize(
  ("mib", "expected"), [(80, 1), (60, 2), (36, 2), (24, 4), (14, 8), (4, 32)]
)
@pytest.mark.parametrize("fixed_bytes", [0, IMAGE // 4])
def test_the_fewest_parts_that_fit(one_device, mib, expected, fixed_bytes):
  found, compiled, lines = choose(
    one_device, mib * IMAGE, fixed_bytes=fixed_bytes
  )
  assert found == expected
  # The number that is chosen was compiled, with few others and none twice.
  assert found in compiled
  assert len(compiled) == len(set(compiled)) <= 3
  text = f"a step of 64 images is computed in {found} parts of {64 // found}"
  assert (text in lines[-1]) == (found > 1)


def test_each_device_has_a_part_of_its_own(mesh):
  # 16 of the 64 images on each of four devices.
  assert choose(mesh, 7 * IMAGE)[0] == 4


def test_one_image_that_does_not_fit_ends_in_one_line(one_device):
  with pytest.raises(InputError, match="GiB for even one image at a time, and"):
    choose(one_device, IMAGE * 3 // 2)


def test_batch_statistics_need_the_whole_batch(one_device):
  found, compiled, _ = choose(one_device, 80 * IMAGE, **{"model.norm": "bn"})
  assert (found, compiled) == (1, [1])
  with pytest.raises(InputError, match="for 64 images at once, which this"):
    choose(one_device, 40 * IMAGE, **{"model.norm": "bn"})


def test_a_compiler_that_refuses_means_more_parts(one_device):
  spec, config = make(one_device)

  def compiler(spec, config, fixed):
    if spec.accum_steps < 16:
      return aot.StepCost(IMAGE, refusal="too large")
    return aot.StepCost(IMAGE, temp_bytes=4 * IMAGE)

  found = parts.choose(
    spec, config, (), print, usable_bytes=50 * IMAGE, compiler=compiler
  )
  assert found == 16


def test_days_of_training_are_announced(one_device, monkeypatch):
  monkeypatch.setattr(parts, "_flops_per_sec", lambda: 1e6)
  spec, config = make(one_device)
  cost = aot.StepCost(IMAGE, flops=1e12)
  lines = []
  parts.choose(
    spec,
    config,
    (),
    lines.append,
    usable_bytes=60 * IMAGE,
    compiler=lambda *_: cost,
  )
  # Four steps of 1e6 seconds.
  assert "4 steps take more than 46 days on this machine" in lines[-1]


@pytest.mark.slow
def test_a_real_step_fits_in_parts(one_device):
  spec, config = make(one_device, **{"input.batch_size": 8})
  cost = aot.compile_spec(spec, config, ())
  batch = aot.device_bytes(aot.abstract_batch(config, spec))
  # The bound under which nothing is compiled holds.
  rows = 8 * 3 * 4 * config.resolved.crop_px**2
  params = aot.device_bytes(step.make_abstract_state(spec).params)
  assert cost.temp_bytes < 2 * parts._GRADIENTS * params + parts._MOST * rows
  waiting = parts.WAITING_BATCHES * batch

  def choose(free):
    usable = int(free) + waiting
    return parts.choose(spec, config, (), print, usable_bytes=usable)

  assert choose(1.2 * cost.total_bytes) == 1
  found = choose(cost.total_bytes - 1)
  assert found > 1
  spec = dataclasses.replace(spec, accum_steps=found)
  fitted = aot.compile_spec(spec, config, ())
  assert fitted.total_bytes < cost.total_bytes


def test_the_memory_of_this_machine(tmp_path, monkeypatch):
  found = host_memory.available_bytes()
  assert 2**28 < found < 2**44
  used = aot.usable_bytes(jax.devices()[0])
  assert used * jax.local_device_count() < 0.9 * found
  limit, use = tmp_path / "max", tmp_path / "current"
  limit.write_text(f"{2**28}\n")
  use.write_text(f"{2**26}\n")
  monkeypatch.setattr(host_memory, "_CGROUPS", [(str(limit), str(use))])
  assert host_memory.available_bytes() == 2**28 - 2**26
  limit.write_text("max\n")
  assert host_memory.available_bytes() > 2**28
