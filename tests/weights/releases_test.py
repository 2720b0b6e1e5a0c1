import io
import os

import pytest

from bit_jax import models
from bit_jax.errors import InputError
from bit_jax.weights import releases


@pytest.fixture
def folder(tmp_path, monkeypatch):
  monkeypatch.setenv("BIT_WEIGHTS_DIR", str(tmp_path / "weights"))
  return tmp_path / "weights"


@pytest.fixture
def bucket(tmp_path, monkeypatch):
  """Replaces the official bucket by an empty folder and returns it."""
  monkeypatch.setattr(releases, "URL", (tmp_path / "bucket").as_uri())
  (tmp_path / "bucket" / "vtab").mkdir(parents=True)
  return tmp_path / "bucket"


def test_names():
  # 12 upstream, 6 fine-tuned on ILSVRC-2012, 5 x 3 x 19 VTAB-1k runs, 8
  # distilled or teachers.
  assert len(releases.VARIANTS) == 12 + 6 + 285 + 8
  for name, variant in {
    "BiT-M-R50x1": "R50x1",
    "BiT-S-R101x3": "R101x3",
    "BiT-M-R152x4-ILSVRC2012": "R152x4",
    "vtab/BiT-M-R50x1-run0-caltech101": "R50x1",
    "vtab/BiT-M-R101x1-run2-dsprites-xpos": "R101x1",
    "distill/R50x1_224": "R50x1",
    "distill/R152x2_T_384": "R152x2",
    "distill/R152x2_T_pet128": "R152x2",
  }.items():
    assert releases.VARIANTS[name] == variant
  assert set(releases.VARIANTS.values()) == set(models.VARIANTS)


@pytest.mark.parametrize(
  ("name", "meant"),
  [
    ("bit-m-r50x1.npz", ["BiT-M-R50x1"]),
    ("BiT-M-R50-1", ["BiT-M-R50x1", "BiT-S-R50x1", "BiT-M-R50x3"]),
    ("distill/R50x1", ["distill/R50x1_224", "distill/R50x1_160"]),
    ("/tmp/params.npz", []),
  ],
)
def test_names_that_are_nearly_right(name, meant):
  assert releases.similar(name) == meant


def test_releases_are_recognised_by_their_file():
  assert releases.of_file("BiT-M-R50x1") == "BiT-M-R50x1"
  assert releases.of_file("R50x1_224") == "distill/R50x1_224"
  assert releases.of_file("params") == ""


@pytest.mark.parametrize(
  ("release", "known"),
  [
    ("BiT-S-R50x1", True),
    ("BiT-M-R50x1-ILSVRC2012", True),
    ("distill/R50x1_224", True),
    ("distill/R152x2_T_pet128", False),
    ("BiT-M-R50x1", False),
    ("vtab/BiT-M-R50x1-run0-sun397", False),
  ],
)
def test_class_names(release, known):
  names = releases.class_names(release)
  assert bool(names) == known
  if known:
    assert len(set(names)) == 1000
    assert list(names) == sorted(names)
    # Tench and toilet paper, the first and last of ILSVRC-2012.
    assert (names[0], names[-1]) == ("n01440764", "n15075141")


def test_local_folder(folder, monkeypatch):
  assert releases.local_dir() == folder
  monkeypatch.delenv("BIT_WEIGHTS_DIR")
  monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
  assert str(releases.local_dir()) == "/cache/bit_jax/weights"


def test_local_file_needs_no_network(folder, monkeypatch):
  monkeypatch.setattr(releases.urllib.request, "urlopen", None)
  (folder / "distill").mkdir(parents=True)
  path = folder / "distill/R50x1_224.npz"
  path.write_bytes(b"x")
  assert releases.fetch("distill/R50x1_224") == path


def test_download_once(folder, bucket):
  name = "vtab/BiT-M-R50x1-run0-svhn"
  content = os.urandom(3 << 20)
  (bucket / f"{name}.npz").write_bytes(content)
  path = releases.fetch(name)
  assert path == folder / f"{name}.npz"
  assert path.read_bytes() == content
  assert os.listdir(path.parent) == [path.name]
  (bucket / f"{name}.npz").unlink()
  assert releases.fetch(name) == path


def test_missing_file_is_answered_by_url_and_place(folder, bucket):
  with pytest.raises(InputError) as error:
    releases.fetch("BiT-M-R50x1")
  message = str(error.value)
  assert "release BiT-M-R50x1 could not be downloaded" in message
  assert f"get {bucket.as_uri()}/BiT-M-R50x1.npz and put it" in message
  assert message.endswith(f"at {folder}/BiT-M-R50x1.npz")
  assert "\n" not in message


def test_default_url():
  assert releases.URL == "https://storage.googleapis.com/bit_models"


def test_short_download_is_refused(folder, monkeypatch):
  class Response(io.BytesIO):
    headers = {"Content-Length": "10"}  # noqa: RUF012

  monkeypatch.setattr(
    releases.urllib.request, "urlopen", lambda *_, **__: Response(b"1234")
  )
  with pytest.raises(InputError, match=r"\(4 of 10 bytes arrived\)"):
    releases.fetch("BiT-M-R50x1")
  assert os.listdir(folder) == []


def test_download_of_unknown_size(folder, monkeypatch):
  class Response(io.BytesIO):
    headers = {"Content-Length": None}  # noqa: RUF012

  monkeypatch.setattr(
    releases.urllib.request, "urlopen", lambda *_, **__: Response(b"1234")
  )
  assert releases.fetch("BiT-M-R50x1").read_bytes() == b"1234"
