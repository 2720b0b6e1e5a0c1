import dataclasses
import math
from unittest import mock

import pytest

from bit_jax.errors import InputError
from bit_jax.preflight import aot
from scripts.benchmark import fit, steps
from scripts.benchmark.flags import Case

TINY = Case("max_batch", "R14x0.5", 32, 8, classes=10)


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 31, 32, 33, 100, 1000])
@pytest.mark.parametrize("start", [1, 16, 256])
@pytest.mark.parametrize("unit", [1, 4])
def test_largest_is_found(limit, start, unit):
  asked = []

  def fits(batch):
    assert batch % unit == 0
    asked.append(batch)
    return batch <= limit * unit

  found = fit.largest(fits, start=start, unit=unit)
  assert found in asked
  # The search ends within 1/32 of the result.
  assert limit * (1 - 1 / 32) <= found / unit <= limit
  assert len(set(asked)) == len(asked) < 24


def test_the_search_starts_with_whole_units():
  asked = []
  fit.largest(lambda batch: asked.append(batch), start=5, unit=4)
  assert asked == [8, 4]


def test_largest_has_ends():
  assert fit.largest(lambda batch: False, start=8, unit=2) == 0
  assert fit.largest(lambda batch: True, start=8, unit=2) > 10**5


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 31, 32, 33, 100, 1000])
@pytest.mark.parametrize("start", [1, 16, 256])
@pytest.mark.parametrize("unit", [1, 4])
@pytest.mark.parametrize("bend", [0.0, 0.5, -0.3])
def test_few_batches_are_needed_where_memory_is_nearly_linear(
  limit, start, unit, bend
):
  asked = []

  def total_bytes(batch):
    assert batch % unit == 0
    asked.append(batch)
    n = batch / unit
    # The compiler's layouts change with the batch, so memory is not linear.
    return math.inf if n > 3000 else 100 + n * (10 + bend * (n >= 64))

  limit_bytes = 100 + limit * (10 + bend * (limit >= 64))
  found = fit.largest_on_line(total_bytes, limit_bytes, start=start, unit=unit)
  assert found in asked
  assert limit * (1 - 1 / 16) - 1 <= found / unit <= limit
  assert len(set(asked)) == len(asked) <= 8


def test_on_line_nothing_may_fit():
  assert not fit.largest_on_line(lambda n: 9 + n, 5, start=64, unit=4)
  assert not fit.largest_on_line(lambda n: math.inf, 5, start=64, unit=4)
  # Memory that does not grow defines no line.
  assert fit.largest_on_line(lambda n: 3, 5, start=64, unit=4) >= 64


def test_on_line_the_search_has_ends():
  asked = []

  def total_bytes(batch):
    asked.append(batch)
    return batch if batch <= 9000 else math.inf

  # The compiler gives up below the limit, or every batch fits.
  assert 8700 <= fit.largest_on_line(total_bytes, 1e6, start=64, unit=1) <= 9000
  assert len(asked) <= 16
  asked.clear()
  most = fit.largest_on_line(
    lambda n: asked.append(n) or n, 1e9, start=64, unit=1
  )
  assert most == 2**17
  assert len(asked) <= 4


def test_by_compiler_compares_needs_with_memory(mesh):
  batches = []

  def compiler(case, mesh):
    batches.append(case.batch)
    return aot.StepCost(2**20, temp_bytes=case.batch * 2**20)

  found = fit.by_compiler(TINY, mesh, [1 / 8, 1.0], compiler)
  limits = {s["memory_gib"]: s["max_batch"] for s in found["subjects"]}
  assert limits == {0.125: 124, 1.0: 1020}
  assert len(batches) == len(set(batches)) <= 5
  assert not any(batch % 4 for batch in batches)


def test_more_than_a_device_has_is_extrapolated(mesh):
  batches = []

  def compiler(case, mesh):
    batches.append(case.batch)
    return aot.StepCost(2**20, temp_bytes=case.batch * 2**20)

  with mock.patch.object(aot, "usable_bytes", return_value=2**30):
    (found,) = fit.by_compiler(TINY, mesh, [4.0], compiler)["subjects"]
  assert found["max_batch"] == 4092
  assert found["extrapolated"]
  assert batches == [8, 32]


@pytest.mark.parametrize(("most", "batch"), [(100, 4092), (16, 4092), (7, 0)])
def test_smaller_batches_tell_where_the_first_is_too_large(mesh, most, batch):
  def compiler(case, mesh):
    refusal = "no" if case.batch > most else ""
    return aot.StepCost(2**20, temp_bytes=case.batch * 2**20, refusal=refusal)

  with mock.patch.object(aot, "usable_bytes", return_value=2**30):
    case = dataclasses.replace(TINY, batch=256)
    found = fit.by_compiler(case, mesh, [4.0, 8.0], compiler)["subjects"]
  assert found[0]["max_batch"] == batch


def test_memory_that_is_unknown_is_asked_for(mesh):
  message = "cpu is unknown; give --memory_gib="
  with (
    mock.patch.object(aot, "usable_bytes", return_value=0),
    pytest.raises(InputError, match=message),
  ):
    fit.by_compiler(TINY, mesh, [], mock.Mock())


@pytest.mark.parametrize(
  "error",
  [
    RuntimeError("CUDA out of memory. Tried\nto"),
    RuntimeError("RESOURCE_EXHAUSTED: 1 GiB"),
    steps.DoesNotFitError("does not fit: 17 of 16 GiB"),
  ],
)
def test_memory_that_is_short_is_no_error(error):
  assert fit.fits(mock.Mock())
  assert not fit.fits(mock.Mock(side_effect=error))


def test_a_trial_says_what_it_lacks():
  error = ImportError("No module named 'torch'")
  with pytest.raises(InputError, match="^No module named 'torch'$"):
    fit.fits(mock.Mock(side_effect=error))


def test_a_trial_does_not_hide_defects():
  with pytest.raises(KeyError):
    fit.fits(mock.Mock(side_effect=KeyError("x")))


def test_implementations_are_compared():
  def trial(name, batch):
    if name == "b":
      raise RuntimeError("no\nkernel")
    return batch <= {"ours": 96, "a": 64}[name]

  found = fit.by_trials(TINY, ["ours", "a", "b"], trial, unit=2)
  assert found["subjects"] == [
    {"name": "ours", "max_batch": 96},
    {"name": "a", "max_batch": 64, "first_is_larger": 1.5},
  ]
  assert found["notes"] == ["b is not compared: no kernel"]
  with pytest.raises(RuntimeError, match="kernel"):  # Ours must work.
    fit.by_trials(TINY, ["b"], trial, unit=2)
