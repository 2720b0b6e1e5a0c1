"""Images that weights were trained on are known again, wherever they lie."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from bit_jax import weights
from bit_jax.data import datasets, in_memory
from bit_jax.models import paths
from bit_jax.run import trained_on, workdir_files
from bit_jax.run.trained_on import TrainedOn
from bit_jax.weights import param_shapes
from configs import downstream
from tests import fakes


def _write(path, seed):
  """Writes a BMP, which has as many bytes as all others."""
  pixels = np.random.default_rng(seed).integers(0, 256, (8, 6, 3), np.uint8)
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(pixels).save(path)


@pytest.fixture
def photos(tmp_path):
  """A folder of 2 classes of 5 images of the same size in bytes."""
  root = tmp_path / "photos"
  for i in range(10):
    _write(root / f"class {i % 2}" / f"{i // 2}.bmp", i)
  return root


def train_source(photos):
  return datasets.open_dataset(f"folder:{photos}").load("train")


def test_files_are_known_in_another_place(photos, tmp_path):
  source = train_source(photos)
  kept = json.loads(json.dumps(trained_on.describe(source)))
  found = weights.Weights({}, {}, "R14x0.25", trained_on=kept)
  known = trained_on.of("gone.npz", found)
  assert len(known.ids) == len(source) == 8
  moved = tmp_path / "moved" / "a"
  shutil.move(photos, moved)
  again = datasets.open_dataset(f"folder:{moved}")
  assert known.find(again.load("train")).tolist() == list(range(8))
  assert known.find(again.load("test")).size == 0
  both = again.load("test+train")
  assert known.find(both).tolist() == list(range(2, 10))
  assert known.find(again.load("train[2:5]")).tolist() == [0, 1, 2]
  # An image that is new, or is another one now, was not trained on.
  _write(moved / "class 0" / "new.bmp", 77)
  changed = source.files()[0].replace(str(photos), str(moved))
  _write(moved.parent / "x.bmp", 78)
  shutil.move(moved.parent / "x.bmp", changed)
  everything = datasets.folder.load_all(str(moved))
  names = [everything.files()[i] for i in known.find(everything)]
  assert len(names) == 7
  assert changed not in names


def test_what_wraps_a_source_keeps_its_files(photos):
  source = train_source(photos)
  memory = in_memory.Memory(100)
  cached = in_memory.cache_in_memory(source, memory)
  assert cached is not source
  assert trained_on.describe(cached) == trained_on.describe(source)


def test_sets_without_files():
  source = fakes.array_source()
  kept = trained_on.describe(source)
  assert kept == {"fingerprint": source.fingerprint}
  known = TrainedOn(source.fingerprint)
  assert len(known.find(source)) == len(source)
  assert len(known.find(fakes.array_source(seed=1))) == 0
  assert len(TrainedOn().find(source)) == 0
  assert trained_on.describe(None) == {}


def test_too_many_files_are_not_listed(photos, monkeypatch):
  monkeypatch.setattr(trained_on, "_MOST_FILES", 7)
  assert set(trained_on.describe(train_source(photos))) == {"fingerprint"}


def test_a_work_directory_tells_of_its_checkpoints(photos, tmp_path):
  bare = weights.Weights({}, {}, "R14x0.25")
  workdir = tmp_path / "run"
  step = workdir / "checkpoints" / "5"
  step.mkdir(parents=True)
  assert len(trained_on.of(step, bare).ids) == 0
  config = downstream.get_config(f"dataset=folder:{photos}")
  config.resolved.data_fingerprint = "abc test=def"
  (workdir / workdir_files.CONFIG).write_text(config.to_json())
  held_out = ["class 0/0.bmp", "class 1/3.bmp"]
  (workdir / "held_out.json").write_text(json.dumps(held_out))
  everything = datasets.folder.load_all(str(photos))
  for path in (workdir, workdir / "checkpoints", step):
    known = trained_on.of(path, bare)
    assert known.fingerprint == "abc"
    left = set(range(10)) - set(known.find(everything).tolist())
    files = [everything.files()[i] for i in sorted(left)]
    assert files == [f"{photos}/{name}" for name in held_out]
  # The list that a finished run keeps goes before.
  kept = {"fingerprint": "xyz"}
  shapes = param_shapes.abstract_params(fakes.MODEL, 3)
  params = {k: np.zeros(x.shape, np.float32) for k, x in shapes.items()}
  found = weights.Weights(
    paths.unflatten(params), {}, fakes.MODEL, trained_on=kept
  )
  weights.save_npz(workdir / "params.npz", found)
  assert weights.load(workdir / "params.npz").trained_on == kept
  assert trained_on.of(step, bare).fingerprint == "xyz"
  # Without the images it is not known, which is no error.
  (workdir / "params.npz").unlink()
  shutil.rmtree(photos)
  assert len(trained_on.of(step, bare).ids) == 0
