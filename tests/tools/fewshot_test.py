import json

import jax
import pytest

from bit_jax import models, weights
from bit_jax.models import init
from bit_jax.tools import fewshot


@pytest.fixture(scope="module")
def params_npz(tmp_path_factory):
  path = tmp_path_factory.mktemp("weights") / "params.npz"
  model = models.create("R14x0.25", num_classes=7)
  variables = init.init_variables(model, jax.random.key(0))
  params = jax.device_get(variables["params"])
  weights.save_npz(path, weights.Weights(params, {}, "R14x0.25"))
  return str(path)


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
  """The folder that caches features."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  return tmp_path / "cache" / "bit_jax" / "features"


def test_random_features_beat_chance_and_more_shots_help(params_npz, capsys):
  argv = [params_npz, "--dataset=digits", "--shots=1,20", "--seeds=2"]
  assert fewshot.main([*argv, "--json"]) == 0
  result = json.loads(capsys.readouterr().out)
  assert 0.2 < result["1shot_accuracy"] < result["20shot_accuracy"] < 1


def test_the_same_features_are_computed_once(
  params_npz, kept, monkeypatch, capsys
):
  argv = [params_npz, "--dataset=digits", "--shots=1,20", "--seeds=2", "--json"]
  assert fewshot.main([*argv, "--no_cache"]) == 0
  assert not kept.exists()
  assert fewshot.main(argv) == 0
  with monkeypatch.context() as patch:
    patch.setattr(fewshot.inference, "pipeline", None)
    assert fewshot.main(argv) == 0
  without, first, again = capsys.readouterr().out.splitlines()
  assert without == first == again
  # Other seeds draw other training examples, but the test set stays cached.
  before = set(kept.iterdir())
  assert len(before) == 2
  assert fewshot.main([*argv, "--seeds=3"]) == 0
  assert len(set(kept.iterdir()) - before) == 1


@pytest.mark.parametrize(
  ("change", "code", "message"),
  [
    ({0: "/no/such.npz"}, 1, "/no/such.npz"),
    ({1: "--dataset=no_such_set"}, 1, "no_such_set"),
    ({1: "--dataset=folder:/no,x"}, 1, "folder:/no,x does not exist"),
    ({2: "--shots=0"}, 2, "--shots"),
    ({2: "--seeds=0"}, 2, "--seeds"),
    ({2: "--shots=99999"}, 1, "99999"),
  ],
)
def test_bad_input(params_npz, capsys, change, code, message):
  argv = [params_npz, "--dataset=digits", "--shots=1"]
  for i, value in change.items():
    argv[i] = value
  try:
    got = fewshot.main(argv)
  except SystemExit as e:
    got = e.code
  error = capsys.readouterr().err
  assert got == code
  assert message in error
  if code == 1:
    assert error.startswith("error: ")
    assert error.count("\n") == 1
