import sys

import numpy as np
import pytest
from PIL import Image

from bit_jax.data import decode, pipeline
from bit_jax.errors import InputError
from scripts.benchmark import input as benchmark
from scripts.benchmark import peers
from scripts.benchmark.flags import Case

CASE = Case("input", px=32, batch=4)


def measure(case, mesh, **kwargs):
  settings = {
    "peer_names": ["timm", "tf.data"],
    "num_images": 6,
    "rounds": 2,
    "round_secs": 0.0,
  }
  return benchmark.run(case, mesh, **{**settings, **kwargs})


def test_photos_are_like_those_of_imagenet():
  first = benchmark.make_photo(0)
  assert first == benchmark.make_photo(0) != benchmark.make_photo(1)
  image = decode.decode(first, "photo")
  assert image.shape == (375, 500, 3)
  assert 90_000 < len(first) < 115_000
  assert 20 < image.std() < 90
  # In a photo, unlike in white noise, neighbouring pixels are similar.
  assert np.corrcoef(image[:, 1:].ravel(), image[:, :-1].ravel())[0, 1] > 0.7


@pytest.fixture
def read(monkeypatch):
  """A list that receives the batches that the pipeline reads."""
  batches, train_batches = [], pipeline.train_batches

  def spy(source, preprocess, **kwargs):
    batches.append((kwargs["start_step"], kwargs["total_steps"]))
    return train_batches(source, preprocess, **kwargs)

  monkeypatch.setattr(pipeline, "train_batches", spy)
  return batches


def test_the_pipeline_is_measured(mesh, monkeypatch, read):
  monkeypatch.setitem(sys.modules, "tensorflow", None)
  found = measure(CASE, mesh)
  (ours,) = found["subjects"]
  secs = ours["step_secs"]["median"]
  assert ours["images_per_sec"] == pytest.approx(4 / secs)
  per_core = ours["images_per_sec"] / found["cores"]
  assert ours["images_per_sec_per_core"] == pytest.approx(per_core)
  assert found["data"] == "6 photos made of noise"
  assert read == [(0, 1), (1, 2), (2, 3)]  # Others each time.
  assert len(found["notes"]) == 1
  assert found["notes"][0].startswith("tf.data is not compared: ")


def test_given_data_is_used(mesh):
  case = Case("input", px=32, batch=4, overrides=("data.name=glyphs",))
  found = measure(case, mesh, peer_names=["tf.data"])
  assert found["data"] == "config.data.name=glyphs"
  assert "it does inception crops only" in found["notes"][0]
  assert measure(case, mesh, peer_names=[])["notes"] == []


def test_the_peer_takes_jpegs_only(mesh, tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  for i in range(10):
    path = tmp_path / "ab"[i % 2] / f"{i}.png"
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (40, 40), (i, 0, 0)).save(path)
  name = f"data.name=folder:{tmp_path}"
  case = Case("input", px=32, batch=4, overrides=(name,))
  found = measure(case, mesh)
  assert len(found["subjects"]) == 1
  assert "does not hold JPEGs only" in found["notes"][0]


def test_data_that_is_not_there(mesh):
  case = Case("input", px=32, batch=4, overrides=("data.name=folder:/no",))
  with pytest.raises(InputError, match="/no"):
    measure(case, mesh)
  with pytest.raises(InputError, match="devices, 4"):
    measure(Case("input", px=32, batch=3), mesh)


def test_the_peer_gets_the_same_images(mesh, monkeypatch):
  given = {}

  class Peer:
    name, compile_secs = "tf.data", 0.0

    def __init__(self, images, px, batch):
      given.update(images=images, px=px, batch=batch)

    def run(self, steps):
      given["steps"] = steps

    def memory(self):
      return {}

  Peer.name = peers.TfData.name
  monkeypatch.setattr(peers, "TfData", Peer)
  ours, theirs = measure(CASE, mesh)["subjects"]
  assert (ours["name"], theirs["name"]) == ("bit_jax", "tf.data")
  assert "first_is_faster" in theirs
  assert (given["px"], given["batch"], given["steps"] >= 1) == (32, 4, True)
  photos = {benchmark.make_photo(i) for i in range(6)}
  assert set(given["images"]) == photos
