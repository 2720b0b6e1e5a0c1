"""Work directories, checkpoints and weights of older commits still work."""

import json
import pathlib
import tarfile

import numpy as np
import pytest

from bit_jax import train, weights
from bit_jax.models import paths
from bit_jax.recipe import load

ARCHIVE = pathlib.Path(__file__).parent / "old_run/run_of_3d9ff30.tar.gz"
CONFIG = (
  "configs/downstream.py:preset=quick,model=R14x0.03125,dataset=digits,"
  "examples_per_class=2"
)
OVERRIDES = (
  "--config.model.norm=bn",
  "--config.total_steps=6",
  "--config.checkpoint.every_steps=4",
  "--config.input.batch_size=8",
  "--config.eval.batch_size=64",
)


@pytest.fixture
def old_run(tmp_path):
  with tarfile.open(ARCHIVE) as archive:
    archive.extractall(tmp_path, filter="data")
  return tmp_path / "run"


def test_weights_and_checkpoints_load(old_run):
  done = weights.load(old_run / "params.npz")
  saved = weights.load(old_run / "checkpoints" / "4")
  for loaded in (done, saved):
    assert (loaded.variant, loaded.num_classes) == ("R14x0.03125", 10)
    assert loaded.model_options == {"norm": "bn"}
    assert loaded.class_names == tuple("0123456789")
    mean = loaded.batch_stats["block1"]["unit01"]["bn1"]["mean"]
    assert np.any(mean != 0)
  assert done.preprocess == saved.preprocess


def test_a_run_goes_on_where_it_was(old_run, capsys):
  (old_run / "result.json").rename(old_run / "old_result.json")
  old = weights.load(old_run / "params.npz")
  result = train.train_and_evaluate(
    load.load_config(CONFIG, OVERRIDES), old_run
  )
  assert "resumed from step 4" in capsys.readouterr().err
  before = json.loads((old_run / "old_result.json").read_text())
  assert result == pytest.approx(before, rel=1e-4)
  new = weights.load(old_run / "params.npz")
  for tree, other in (
    (new.params, old.params),
    (new.batch_stats, old.batch_stats),
  ):
    flat, wanted = paths.flatten(tree), paths.flatten(other)
    assert flat.keys() == wanted.keys()
    for path, array in flat.items():
      np.testing.assert_allclose(
        array, wanted[path], rtol=1e-4, atol=1e-5, err_msg=path
      )


def test_a_finished_run_is_finished(old_run, capsys):
  train.train_and_evaluate(load.load_config(CONFIG, OVERRIDES), old_run)
  assert "is finished" in capsys.readouterr().err
