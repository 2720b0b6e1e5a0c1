import os

import pytest

from bit_jax.data.sets import image_files
from bit_jax.data.sets.left_out import LeftOut


@pytest.mark.parametrize(
  "name",
  [
    *("1.jpg", "1.JPEG", "1.jpe", "1.jfif", "1.JFIF", "1.pjpeg"),
    *("1.png", "1.apng", "1.webp", "1.bmp", "1.dib", "1.gif"),
    *("1.tif", "1.TIFF", "a.b.jpg", "deep/er/1.jpg", "#dog/1.jpg", "@me/1.jpg"),
  ],
)
def test_names_of_images(name):
  assert image_files.is_image(name)


@pytest.mark.parametrize(
  "name",
  [
    *("1.heic", "1.txt", "jpg", "1.jpg.txt", "1.jpg_large"),
    *(".1.jpg", "._1.jpg", "~$1.jpg", "a/.deep/1.jpg", "__MACOSX/1.jpg"),
  ],
)
def test_names_of_no_images(name):
  assert not image_files.is_image(name)


# By whom they are left behind.
_SYSTEM = {
  "Synology": [
    *("@eaDir", "#recycle", "#snapshot", "@tmp", "@SynoResource"),
    *("1.jpg@SynoEAStream", "1.jpg@SynoResource"),
  ],
  "QNAP": [
    ".@__thumb",
    ".streams",
    "@Recycle",
    "@Recently-Snapshot",
    "@__qini",
  ],
  "other NAS": [".snapshot", "~snapshot", ".zfs", "trashbox"],
  "Windows": [
    *("Thumbs.db", "thumbs.db", "ehthumbs.db", "desktop.ini", "Desktop.ini"),
    *("$RECYCLE.BIN", "$Recycle.Bin", "System Volume Information", "RECYCLER"),
    *("~$photos.docx", "1.jpg:Zone.Identifier", "FOUND.000", "RECYCLED"),
    *("1.jpg.Zone.Identifier", "@GMT-2026.01.31-12.00.00", "MSOCache"),
  ],
  "macOS": [
    *(".DS_Store", "._1.jpg", "__MACOSX", ".fseventsd", ".Spotlight-V100"),
    *(".Trashes", ".TemporaryItems", "Icon\r", "Network Trash Folder"),
  ],
  "Linux": ["LOST.DIR", "lost+found", ".Trash-1000", ".nfs0001", ".directory"],
  "tools": [
    *(".ipynb_checkpoints", ".git", ".dvc", ".dvcignore", "__pycache__"),
    *(".idea", ".stfolder", ".dropbox.cache", ".picasa.ini", "Picasa.ini"),
  ],
}


@pytest.mark.parametrize("system", _SYSTEM)
def test_what_systems_leave_is_never_listed(tmp_path, system):
  names = _SYSTEM[system]
  for name in names:
    if "." in name[1:] and not name.lower().endswith((".000", ".bin")):
      (tmp_path / name).write_bytes(b"x")
    else:
      (tmp_path / name).mkdir(exist_ok=True)
      (tmp_path / name / "1.jpg").write_bytes(b"x")
      # Such as a thumbnail in a folder named after its image.
      (tmp_path / name / "2.jpg").mkdir(exist_ok=True)
      (tmp_path / name / "2.jpg/S.jpg").write_bytes(b"x")
  (tmp_path / "1.jpg").write_bytes(b"x")
  counted = LeftOut(str(tmp_path))
  root = str(tmp_path)
  assert image_files.images_below(root, root, counted) == ["1.jpg"]
  assert image_files.subfolders(root, counted) == {}
  assert counted.files() == ""


def test_a_system_folder_that_cannot_be_read(tmp_path, monkeypatch):
  (tmp_path / "lost+found").mkdir()
  (tmp_path / "1.jpg").write_bytes(b"x")
  scandir = os.scandir

  def refuse(path):
    if os.path.basename(path) == "lost+found":
      raise PermissionError(13, "Permission denied")
    return scandir(path)

  monkeypatch.setattr(os, "scandir", refuse)
  root, counted = str(tmp_path), LeftOut(str(tmp_path))
  assert image_files.images_below(root, root, counted) == ["1.jpg"]


def test_files_that_are_passed_over_are_counted(tmp_path):
  for name in ("1.jpg", "2.heic", "a/3.heic", "a/4.txt", "a/.5.jpg.icloud"):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"x")
  (tmp_path / "loop").symlink_to("loop")
  root, counted = str(tmp_path), LeftOut(str(tmp_path))
  assert image_files.images_below(root, root, counted) == ["1.jpg"]
  text = counted.text()
  assert text.startswith("4 files that are no images by name (.heic 2, ")
  assert "iCloud" in text
  assert text.endswith("1 link to nothing: loop")


@pytest.mark.parametrize("to", ["..", "../..", ".", "/"])
def test_links_to_folders_above_are_left_out(tmp_path, to):
  for name in ("photos/cat/1.jpg", "photos/dog/1.jpg"):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"x")
  root = f"{tmp_path}/photos"
  (tmp_path / "photos/cat/link").symlink_to(to)
  (tmp_path / "photos/all").symlink_to("../photos")
  counted = LeftOut(root)
  found = image_files.images_below(root, f"{root}/cat", counted)
  assert found == ["cat/1.jpg"]
  # A class that is a link to all classes.
  assert image_files.images_below(root, f"{root}/all", counted) == []
  assert counted.text() == "2 links to a folder above: all, cat/link"
  # All images of a folder, through a link to it.
  found = image_files.images_below(f"{root}/all", f"{root}/all", LeftOut(root))
  assert found == ["cat/1.jpg", "dog/1.jpg"]


@pytest.mark.parametrize(
  "name", ["recycled", "Recycler", "TrashBox", "identifier", "gmt-1", "@GMT"]
)
def test_classes_that_sound_like_what_systems_leave(name):
  assert not image_files.is_hidden(name)
