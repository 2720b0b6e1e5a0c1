"""Going on after the data or the config has changed."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from bit_jax import train
from bit_jax.errors import InputError
from bit_jax.run import sources, start
from bit_jax.run.sources import RunData
from tests import fakes
from tests.fakes import make_config


@pytest.fixture
def photos(tmp_path):
  """A folder of 4 classes of 10 images."""
  rng = np.random.default_rng(0)
  for i in range(40):
    path = tmp_path / "photos" / f"class {i % 4}" / f"{i // 4}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(path)
  return tmp_path / "photos"


def on_photos(photos, **overrides):
  px = {"input.resize_px": 32, "input.crop_px": 32, "input.flip": False}
  return make_config(**{"data.name": f"folder:{photos}", **px, **overrides})


def test_a_run_goes_on_without_the_images_that_are_gone(
  photos, tmp_path, capsys
):
  workdir = tmp_path / "w"
  first = train.train_and_evaluate(on_photos(photos), workdir)
  assert first["eval/test/examples"] == 8
  held_out = json.loads((workdir / "held_out.json").read_text())
  gone = held_out[3]
  (photos / gone).unlink()
  trained_on = next(
    path
    for path in sorted(photos.rglob("*.png"))
    if str(path.relative_to(photos)) not in held_out
  )
  trained_on.unlink()
  with pytest.raises(InputError, match=f"{gone}: .* is gone; --config.res"):
    train.train_and_evaluate(on_photos(photos), workdir)
  capsys.readouterr()

  changed = on_photos(photos, resume_changed=True)
  second = train.train_and_evaluate(changed, workdir)
  assert second["eval/test/examples"] == 7
  printed = capsys.readouterr().err
  assert f"1 of 8 held-out images, such as {gone}\n" in printed
  assert "was finished before it was changed; its last state" in printed
  assert "resolved.train_examples: 32 -> 31 (1 fewer)" in printed
  assert "(other files, labels or splits in train, test)" in printed
  assert "resumed from step 4" in printed
  left = json.loads((workdir / "held_out.json").read_text())
  assert left == [name for name in held_out if name != gone]
  # Now it is a run on these images.
  assert train.train_and_evaluate(on_photos(photos), workdir) == second
  assert "is finished: step 4" in capsys.readouterr().err


def test_a_class_more_ends_in_words(photos, tmp_path):
  workdir = tmp_path / "w"
  train.train_and_evaluate(on_photos(photos), workdir)
  shutil.copytree(photos / "class 1", photos / "class 4")
  way = (
    f"4 -> 5.*use another --workdir, with --config.init.checkpoint={workdir}"
  )
  with pytest.raises(InputError, match=way) as error:
    train.train_and_evaluate(on_photos(photos), workdir)
  assert "resume_changed" not in str(error.value)
  words = (
    rf"checkpoint {workdir}/checkpoints/4 has another number of classes than "
    rf"the data \(4 -> 5; new: class 4\), .* use another --workdir, with "
  )
  with pytest.raises(InputError, match=words):
    train.train_and_evaluate(on_photos(photos, resume_changed=True), workdir)
  assert (workdir / "checkpoints" / "4").is_dir()  # Not called damaged.


@pytest.fixture
def give(monkeypatch):
  """Returns a function that sets the sources of all runs."""

  def set_data(num_examples, fingerprint):
    source = fakes.array_source(num_examples, fingerprint=fingerprint)
    data = RunData(source, {"test": fakes.array_source(21, seed=1)})
    monkeypatch.setattr(sources, "load", lambda *_, **__: data)

  return set_data


def test_a_result_of_before_a_change_is_called_so(give, tmp_path, capsys):
  give(40, "a")
  result = train.train_and_evaluate(make_config(), tmp_path)
  give(40, "b")
  shutil.rmtree(tmp_path / "checkpoints")
  changed = make_config(resume_changed=True)
  assert train.train_and_evaluate(changed, tmp_path) == result
  printed = capsys.readouterr().err
  assert "was finished before it was changed (resolved.data_finger" in printed
  assert "this is the result of before the changes" in printed
  assert not (tmp_path / "checkpoints").exists()  # Not trained again.


def test_rules_that_give_fewer_steps_than_were_made(give, tmp_path, capsys):
  (tmp_path / "checkpoints" / "5").mkdir(parents=True)
  give(32, "b")

  def total_steps(**overrides):
    config = make_config(**{"schedule.total": "1 epochs", **overrides})
    return start.load(config, tmp_path).config.resolved.total_steps

  assert total_steps(total_steps=0) == 4
  assert capsys.readouterr().err == ""
  assert total_steps(total_steps=0, resume_changed=True) == 5
  printed = capsys.readouterr().err
  assert "gives 4 steps now, and the newest checkpoint is at step 5" in printed
  assert total_steps(total_steps=3, resume_changed=True) == 3


def test_a_wrong_model_is_found_before_the_data(monkeypatch, tmp_path):
  monkeypatch.setattr(sources, "load", lambda *_, **__: pytest.fail("reads"))
  config = make_config(**{"init.checkpoint": "BiT-M-R101x1"})
  with pytest.raises(InputError, match="expected model=R101x1, or no model="):
    start.load(config, tmp_path / "w")
