import copy
import dataclasses
import importlib.util
import json

import pytest

from bit_jax.errors import InputError
from bit_jax.preflight import aot
from scripts.benchmark import aot as benchmark_aot
from scripts.benchmark.flags import Case

TINY = Case("train", "R14x0.5", 32, 4, classes=10)
COST = aot.StepCost(
  100, temp_bytes=200, flops=1e9, bytes_accessed=300.0, estimated_secs=0.01
)


@pytest.fixture
def stored():
  case = dataclasses.asdict(
    dataclasses.replace(TINY, overrides=("optim.accum_steps=2",))
  )
  return {
    "case": json.loads(json.dumps(case)),
    "topology": "v3:1x1",
    "compiler": "libtpu 1",
    "needs": dataclasses.asdict(COST),
  }


@pytest.fixture
def path(tmp_path, stored):
  path = tmp_path / "figures.json"
  # The other two cases are a measurement and a search for the largest batch.
  others = [{"case": {}}, {"case": {}, "topology": "v3:1x1"}]
  path.write_text(json.dumps({"cases": [stored, *others]}))
  return path


def test_cases_are_read_back(path, stored):
  assert benchmark_aot.read(path) == [stored]  # Only what was compiled.
  case = benchmark_aot.to_case(stored)
  assert case.overrides == ("optim.accum_steps=2",)
  assert case.variant == "R14x0.5"
  hash(case)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("{", "not what --json writes"),
    ('{"cases": [3]}', "not what --json writes"),
    ('{"cases": []}', "no case"),
    (
      '{"cases": [{"topology": "x", "needs": {}, "case": {}}]}',
      "not what --json writes",
    ),
    (None, "No such file"),
  ],
)
def test_files_that_cannot_be_compared_with(text, message, tmp_path):
  path = tmp_path / "x.json"
  if text is not None:
    path.write_text(text)
  with pytest.raises(InputError, match=message) as e:
    benchmark_aot.read(path)
  assert str(path) in str(e.value)


def test_a_file_is_of_one_compiler(path, stored):
  other = stored | {"compiler": "libtpu 2"}
  path.write_text(json.dumps({"cases": [stored, other]}))
  with pytest.raises(InputError, match="more than one compiler"):
    benchmark_aot.read(path)


@pytest.mark.parametrize("key", list(benchmark_aot.FIGURES))
def test_what_is_over_one_percent_worse_is_named(key, stored):
  def found(factor):
    new = copy.deepcopy(stored)
    new["needs"][key] *= factor
    return benchmark_aot.compare([stored], [new])

  assert found(1.0) == ([], [])
  assert found(1.0099) == ([], [])
  assert found(0.9901) == ([], [])
  worse, better = found(1.02)
  assert len(worse) == 1
  assert not better
  for part in ("R14x0.5 float32 train", "accum_steps=2", "v3:1x1"):
    assert part in worse[0]
  assert benchmark_aot.FIGURES[key] in worse[0]
  worse, better = found(0.98)
  assert not worse
  assert len(better) == 1


def test_what_no_longer_fits_is_worse(stored):
  new = copy.deepcopy(stored)
  new["needs"]["refusal"] = "out of memory"
  assert "out of memory" in benchmark_aot.compare([stored], [new])[0][0]


def test_training_and_inference_are_compiled_for_a_mesh(mesh):
  costs = [
    benchmark_aot.compile_case(dataclasses.replace(TINY, mode=mode), mesh)
    for mode in ("train", "infer", "max_batch")
  ]
  train, infer, search = costs
  assert train.bytes_accessed > 2 * infer.bytes_accessed > 0
  # Training has parameters and momentum as arguments, inference parameters.
  assert train.argument_bytes > 1.9 * infer.argument_bytes
  assert search.flops == train.flops


def test_without_libtpu_the_extra_is_named(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(InputError, match=r"^--aot=v3:1x1 needs libtpu: pip"):
    benchmark_aot.make_mesh("v3:1x1")


@pytest.mark.usefixtures("libtpu")
def test_a_step_is_compiled_for_a_tpu_twice_the_same():
  mesh = benchmark_aot.make_mesh("v3:1x1")
  found = [benchmark_aot.run(TINY, mesh, "v3:1x1") for _ in range(2)]
  assert found[0]["compiler"].startswith("libtpu ")
  for key in benchmark_aot.FIGURES:
    assert found[0]["needs"][key] == found[1]["needs"][key] > 0
