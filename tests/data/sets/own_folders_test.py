import json

import pytest

from bit_jax.data.sets import own_folders
from bit_jax.errors import InputError


def _work_dir(path):
  path.mkdir(parents=True, exist_ok=True)
  (path / "config.json").write_text(json.dumps({"resolved": {}, "optim": {}}))
  return path


def test_work_directories_are_recognized(tmp_path):
  assert own_folders.is_work_dir(str(_work_dir(tmp_path / "run")))
  for text in ("[]", "{}", "{", '{"model": 1}', "\xff"):
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    assert not own_folders.is_work_dir(str(tmp_path))
  assert not own_folders.is_work_dir(str(tmp_path / "gone"))


@pytest.mark.parametrize(
  ("workdir", "message"),
  [
    ("photos", "is the image folder"),
    ("photos/cat/..", "is the image folder"),
    ("link", "is the image folder"),
    ("photos/cat", "is a folder in use inside the image folder"),
    ("link/cat", "is a folder in use inside the image folder"),
  ],
)
def test_a_new_work_directory_on_images_is_refused(tmp_path, workdir, message):
  (tmp_path / "photos/cat").mkdir(parents=True)
  (tmp_path / "photos/cat/1.jpg").write_bytes(b"x")
  (tmp_path / "link").symlink_to("photos")
  name = f"folder:{tmp_path}/photos"
  with pytest.raises(InputError, match=f"^--workdir=.*{workdir} {message}"):
    own_folders.check_work_dir(name, f"{tmp_path}/{workdir}")


def test_other_work_directories_are_fine(tmp_path):
  (tmp_path / "photos/cat").mkdir(parents=True)
  (tmp_path / "photos/empty").mkdir()
  (tmp_path / "photos_2").mkdir()
  _work_dir(tmp_path / "photos/run")
  for workdir in ("photos/new", "photos/empty", "photos/run", "photos_2", "."):
    own_folders.check_work_dir(
      f"folder:{tmp_path}/photos/", f"{tmp_path}/{workdir}"
    )
  own_folders.check_work_dir("digits", f"{tmp_path}/photos")
  own_folders.check_work_dir(f"folder:{tmp_path}", f"gs://{tmp_path}")
  # A run that went on in its image folder may still do so.
  _work_dir(tmp_path / "photos")
  own_folders.check_work_dir(f"folder:{tmp_path}/photos", f"{tmp_path}/photos")


def test_caches_are_recognized(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "jax"))
  for name, own in (("cache/bit_jax", True), ("jax", True), ("cat", False)):
    path = str(tmp_path / name)
    assert own_folders.is_own(path, path) == own
