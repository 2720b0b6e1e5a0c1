import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from bit_jax.data import decode
from bit_jax.data.sets import folder, folder_scan
from bit_jax.errors import InputError


def _write(root, *names, size=(8, 6)):
  """Writes images of (height, width) `size`, each in a colour of its own."""
  for name in names:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((*size, 3), sum(name.encode()) % 256, np.uint8)
    image = Image.fromarray(pixels)
    image.save(path, {".jpg": "JPEG", ".bmp": "BMP"}.get(path.suffix, "PNG"))


def _numbered(*classes, count=10):
  return [f"{name}/{i:02}.png" for name in classes for i in range(count)]


def _names(source):
  return [source.examples[i]["name"] for i in range(len(source))]


def _tree(root):
  return sorted(
    (str(p), p.stat().st_mtime_ns if p.exists() else 0) for p in root.rglob("*")
  )


def test_holds_out_a_fifth_of_each_class(tmp_path):
  _write(tmp_path, *_numbered("dog", "cat"), *_numbered("ant", count=2))
  loaded = folder.load(str(tmp_path))
  assert list(loaded.splits) == ["train", "test"]
  train, test = loaded.splits["train"], loaded.splits["test"]
  assert train.class_names == test.class_names == ("ant", "cat", "dog")
  assert np.bincount(train.read_labels()).tolist() == [1, 8, 8]
  assert np.bincount(test.read_labels()).tolist() == [1, 2, 2]
  assert not set(_names(train)) & set(_names(test))
  assert sorted(str(tmp_path / n) for n in loaded.held_out) == sorted(
    _names(test)
  )


def test_example(tmp_path):
  _write(tmp_path, "cat/a.png", "cat/b.png", "dog/a.png", "dog/b.png")
  train = folder.load(str(tmp_path)).splits["train"]
  example = train.examples[1]
  assert example["label"] == 1
  assert example["name"].startswith(str(tmp_path / "dog"))
  with open(example["name"], "rb") as file:
    assert example["image"] == file.read()
  assert train.name == f"folder:{tmp_path} train"
  assert train.read_labels().dtype == np.int64
  assert (train.native_px, train.flip, train.multi_label) == (0, True, False)
  with pytest.raises(IndexError):
    train.examples[2]


def test_image_that_vanishes_later_is_named(tmp_path):
  _write(tmp_path, *_numbered("a", "b", count=2))
  train = folder.load(str(tmp_path)).splits["train"]
  path = train.examples[0]["name"]
  os.remove(path)
  with pytest.raises(InputError, match=rf"^{path}: No such file"):
    train.examples[0]


def test_seed_chooses_and_stored_choice_holds(tmp_path):
  _write(tmp_path, *_numbered("a", "b"))
  load = folder.load
  first = load(str(tmp_path), seed=1)
  assert load(str(tmp_path), seed=1).held_out == first.held_out
  assert load(str(tmp_path), seed=2).held_out != first.held_out
  # New files go to train, and another seed changes nothing.
  _write(tmp_path, "a/new.png", "b/0.png")
  resumed = load(str(tmp_path), seed=2, held_out=first.held_out)
  assert resumed.held_out == first.held_out
  assert _names(resumed.splits["test"]) == _names(first.splits["test"])
  assert resumed.splits["test"].fingerprint == first.splits["test"].fingerprint
  assert str(tmp_path / "a/new.png") in _names(resumed.splits["train"])
  assert json.loads(json.dumps(resumed.held_out)) == resumed.held_out


def test_held_out_file_that_is_gone(tmp_path):
  _write(tmp_path, *_numbered("a", "b"))
  held_out = folder.load(str(tmp_path)).held_out
  os.remove(tmp_path / held_out[0])
  with pytest.raises(InputError, match=rf"{held_out[0]}: this image was held"):
    folder.load(str(tmp_path), held_out=held_out)


def test_class_that_is_all_held_out(tmp_path):
  _write(tmp_path, *_numbered("a", "b", count=2))
  held_out = ["a/00.png", "a/01.png", "b/00.png"]
  with pytest.raises(InputError, match="class 'a' has no images left to train"):
    folder.load(str(tmp_path), held_out=held_out)


@pytest.mark.parametrize(
  ("folders", "splits"),
  [
    (["train", "val", "test"], ["train", "val", "test"]),
    (["train", "validation"], ["train", "validation"]),
    (["train", "valid"], ["train", "valid"]),
    (["Train", "TEST"], ["train", "test"]),
    (["train", "test", "notes"], ["train", "test"]),
  ],
)
def test_split_folders(tmp_path, folders, splits):
  for name in folders:
    _write(tmp_path / name, *_numbered("a", "b", count=1))
  # A class may be missing from an evaluation split, not the reverse.
  _write(tmp_path / folders[0], "c/0.png")
  loaded = folder.load(str(tmp_path))
  assert list(loaded.splits) == splits
  assert loaded.held_out == []
  for name, split in loaded.splits.items():
    assert split.class_names == ("a", "b", "c")
    labels = [0, 1, 2] if name == "train" else [0, 1]
    assert split.read_labels().tolist() == labels


def test_examples_are_in_the_order_of_class_and_name(tmp_path):
  names = ["a/B.png", "a/a.png", "a/c/b.png", "a/d.png", "b/0.png"]
  _write(tmp_path / "train", *reversed(names))
  _write(tmp_path / "val", "a/a.png")
  splits = folder.load(str(tmp_path)).splits
  assert _names(splits["train"]) == [
    str(tmp_path / "train" / name) for name in names
  ]


def test_home_is_expanded(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  _write(tmp_path / "set", *_numbered("a", "b"))
  splits = folder.load("~/set").splits
  assert splits["train"].name == "folder:~/set train"
  assert splits["train"].examples[0]["name"].startswith(str(tmp_path / "set"))


def test_train_folder_alone_is_held_out_from(tmp_path):
  _write(tmp_path / "train", *_numbered("a", "b"))
  loaded = folder.load(str(tmp_path))
  assert {s: len(x) for s, x in loaded.splits.items()} == {
    "train": 16,
    "test": 4,
  }
  assert all(name.startswith("train/") for name in loaded.held_out)


def test_train_may_be_a_class(tmp_path):
  _write(tmp_path, *_numbered("bus", "car", "train"))
  loaded = folder.load(str(tmp_path))
  assert loaded.splits["train"].class_names == ("bus", "car", "train")


def test_extensions_nesting_links_and_hidden_names(tmp_path):
  root = tmp_path / "set"
  taken = ["a/1.JPG", "a/2.jpeg", "a/deep/er/3.PNG", "a/4.WebP", "a/5.bmp"]
  _write(root, *taken, *_numbered("b", count=2))
  _write(
    root,
    "a/.6.png",
    "a/.deep/7.png",
    "a/__MACOSX/8.png",
    ".git/9.png",
    "__MACOSX/10.png",
  )
  (root / "a/notes.txt").write_text("x")
  (root / "readme.md").write_text("x")
  _write(tmp_path / "elsewhere", *_numbered("c", count=2))
  (root / "c").symlink_to(tmp_path / "elsewhere/c")
  (root / "a/deep/loop").symlink_to(root / "a")
  loaded = folder.load(str(root))
  names = [n for split in loaded.splits.values() for n in _names(split)]
  assert sorted(os.path.relpath(name, root) for name in names) == sorted(
    [*taken, "b/00.png", "b/01.png", "c/00.png", "c/01.png"]
  )


def test_image_px_is_the_median_of_train_as_decoded(tmp_path):
  _write(tmp_path / "train", "a/1.png", size=(5, 5))
  _write(tmp_path / "train", "b/1.png", size=(90, 90))
  exif = Image.Exif()
  exif[0x112] = 6
  Image.new("RGB", (20, 30)).save(tmp_path / "train/a/2.jpg", exif=exif)
  _write(tmp_path / "test", *_numbered("a", count=9), size=(99, 99))
  splits = folder.load(str(tmp_path)).splits
  assert splits["train"].image_px == splits["test"].image_px == (20, 30)


def test_fingerprint_follows_content_not_place_or_time(tmp_path):
  first = tmp_path / "first"
  _write(first, *_numbered("a", "b"))

  def fingerprint(root):
    return folder.load(str(root)).splits["train"].fingerprint

  want = fingerprint(first)
  shutil.copytree(first, tmp_path / "second")
  os.utime(tmp_path / "second/a/00.png", (1, 1))
  assert fingerprint(tmp_path / "second") == want
  for change in (
    lambda root: _write(root, "a/00.png", "a/01.png", size=(40, 3)),
    lambda root: (root / "a/00.png").rename(root / "a/000.png"),
    lambda root: (root / "b").rename(root / "c"),
  ):
    shutil.rmtree(tmp_path / "second")
    shutil.copytree(first, tmp_path / "second")
    change(tmp_path / "second")
    assert fingerprint(tmp_path / "second") != want


def test_fingerprint_of_val_follows_its_labels(tmp_path):
  _write(tmp_path, "train/b/0.png", "train/c/0.png", "val/c/0.png")
  before = folder.load(str(tmp_path)).splits["val"]
  _write(tmp_path, "train/a/0.png")
  after = folder.load(str(tmp_path)).splits["val"]
  assert _names(after) == _names(before)
  assert after.fingerprint != before.fingerprint


def test_all_images_as_one_source(tmp_path):
  _write(
    tmp_path / "set", *_numbered("dog", count=2), "ant/1.png", "train/1.png"
  )
  _write(tmp_path / "set", "dog/deep/2.png", ".git/1.png", size=(30, 40))
  (tmp_path / "set/empty").mkdir()
  before = _tree(tmp_path / "set")
  cache = tmp_path / "cache"
  got = folder.load_all(f"{tmp_path}/set", cache_dir=str(cache))
  assert got.name == f"folder:{tmp_path}/set"
  assert got.class_names == ("ant", "dog", "empty", "train")
  assert got.read_labels().tolist() == [0, 1, 1, 1, 3]
  assert [os.path.relpath(name, tmp_path / "set") for name in _names(got)] == [
    *("ant/1.png", "dog/00.png", "dog/01.png", "dog/deep/2.png"),
    "train/1.png",
  ]
  assert [example["label"] for example in got.examples] == [0, 1, 1, 1, 3]
  assert got.image_px == (8, 6)
  assert _tree(tmp_path / "set") == before
  assert len(list(cache.iterdir())) == 1
  _write(tmp_path / "set", "ant/1.png", size=(90, 90))
  changed = folder.load_all(f"{tmp_path}/set", cache_dir=str(cache))
  assert changed.fingerprint != got.fingerprint


def test_one_image_is_a_source(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  _write(tmp_path, "set/cat/1.png")
  got = folder.load_all("~/set")
  assert (len(got), got.class_names) == (1, ("cat",))
  assert got.examples[0]["name"] == str(tmp_path / "set/cat/1.png")


def _broken(name, data):
  def make(root):
    _write(root, *_numbered("a", "b"))
    (root / name).write_bytes(data)

  return make


_BAD = {
  "missing": (shutil.rmtree, "folder:ROOT does not exist; expected PATH/CLASS"),
  "a file": (
    lambda root: (root.rmdir(), root.write_text("x")),
    "folder:ROOT is not a folder; expected PATH/CLASS",
  ),
  "empty": (lambda root: None, "ROOT: there are no class folders; expected"),
  "images at the top": (
    lambda root: _write(root, "1.png"),
    "ROOT: the images are not in class folders; expected PATH/CLASS/IMAGE",
  ),
  "no images": (
    lambda root: ((root / "b").mkdir(), _write(root, "a/1.png", "a/2.png")),
    "ROOT: class folder 'b' has no images in it",
  ),
  "one class": (
    lambda root: _write(root, "a/x/1.png", "a/y/1.png"),
    "ROOT: 'a' is the only class folder",
  ),
  "too few to hold out": (
    lambda root: _write(root, *_numbered("a"), "b/1.png"),
    "ROOT: class 'b' has 1 image; it takes 2 to hold one out",
  ),
  "no train": (
    lambda root: _write(root, "val/a/1.png", "test/a/1.png"),
    "ROOT: there is no train folder beside val and test; expected",
  ),
  "class unknown to train": (
    lambda root: _write(
      root, *_numbered("train/a", "train/b"), "val/a/1.png", "val/z/1.png"
    ),
    "ROOT: class 'z' is in val but not train",
  ),
  "unlabelled test": (
    lambda root: _write(root, *_numbered("train/a", "train/b"), "test/1.png"),
    "ROOT/test: the images are not in class folders",
  ),
  "unlabelled train": (
    lambda root: _write(root, "train/1.png", *_numbered("val/a", "val/b")),
    "ROOT/train: the images are not in class folders",
  ),
  "test without images": (
    lambda root: (
      _write(root, *_numbered("train/a", "train/b")),
      (root / "test/a").mkdir(parents=True),
    ),
    "ROOT: test has no images",
  ),
  "empty file": (_broken("b/z.jpg", b""), "ROOT/b/z.jpg: the file is empty"),
  "no image": (
    _broken("b/z.jpg", b"<html>"),
    "ROOT/b/z.jpg: web page (HTML), not a JPEG, PNG, WebP, BMP, GIF or TIFF",
  ),
  "dead link": (
    lambda root: (
      _write(root, *_numbered("a", "b")),
      (root / "a/z.png").symlink_to(root / "none.png"),
    ),
    "ROOT/a/z.png: No such file",
  ),
}


@pytest.mark.parametrize("case", _BAD)
def test_bad_folder_is_one_clear_error(tmp_path, case):
  make, message = _BAD[case]
  root = tmp_path / "root"
  root.mkdir()
  make(root)
  with pytest.raises(InputError) as error:
    folder.load(str(root))
  assert str(error.value).startswith(message.replace("ROOT", str(root)))
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("case", "message"),
  [
    ("missing", "folder:ROOT does not exist; expected PATH/CLASS/IMAGE, and"),
    ("a file", "folder:ROOT is not a folder"),
    ("empty", "ROOT: there are no class folders"),
    ("images at the top", "ROOT: the images are not in class folders"),
    ("no class has images", "ROOT: there are no images in the class folders"),
    ("no image", "ROOT/b/z.jpg: web page (HTML), not a JPEG"),
    ("dead link", "ROOT/a/z.png: No such file"),
  ],
)
def test_bad_folder_of_all_images(tmp_path, case, message):
  make, _ = _BAD.get(case, (lambda root: (root / "a").mkdir(), ""))
  root = tmp_path / "root"
  root.mkdir()
  make(root)
  with pytest.raises(InputError) as error:
    folder.load_all(str(root))
  assert str(error.value).startswith(message.replace("ROOT", str(root)))
  assert "PATH/train" not in str(error.value)


def test_scan_is_remembered_and_nothing_written_to_the_folder(
  tmp_path, monkeypatch
):
  root, cache = tmp_path / "set", tmp_path / "cache/deep"
  _write(root, *_numbered("a", "b"))
  before = _tree(root)
  read = []

  def check(path, name):
    read.append(os.path.relpath(path, root))
    return checked(path, name)

  checked = decode.check
  monkeypatch.setattr(decode, "check", check)

  def load():
    read.clear()
    return folder.load(str(root), cache_dir=str(cache)).splits["train"]

  first = load()
  assert len(read) == 20
  assert load().image_px == first.image_px
  assert read == []
  assert _tree(root) == before
  [cache_file] = cache.iterdir()
  os.utime(cache_file, (1, 1))
  load()
  assert cache_file.stat().st_mtime == 1  # Not written again.

  os.utime(root / "a/01.png", (1, 1))  # Touched.
  stat = (root / "a/02.png").stat()
  _write(root, "a/02.png", size=(30, 40))  # Changed within the clock's tick.
  os.utime(root / "a/02.png", ns=(stat.st_mtime_ns, stat.st_mtime_ns))
  _write(root, "a/new.png")
  os.remove(root / "a/03.png")
  load()
  assert sorted(read) == ["a/01.png", "a/02.png", "a/new.png"]
  assert "a/03.png" not in json.loads(cache_file.read_text())["files"]

  # The format of an older cache had sizes alone, and some were wrong.
  older = {name: [1, 1, 8, 6] for name in _numbered("a", "b")}
  damages = ("", "[]", '{"format": 2}', '{"format": 2, "files": {"a": "x"}}')
  for damage in (*damages, json.dumps(older)):
    cache_file.write_text(damage)
    load()
    assert len(read) == 20


def test_folders_share_a_cache_dir(tmp_path):
  for name in ("one", "two"):
    _write(tmp_path / name, *_numbered("a", "b"))
    folder.load(str(tmp_path / name), cache_dir=str(tmp_path / "cache"))
  assert len(list((tmp_path / "cache").iterdir())) == 2


def test_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
  _write(tmp_path / "set", *_numbered("a", "b"))
  (tmp_path / "file").write_text("x")
  folder.load(str(tmp_path / "set"), cache_dir=str(tmp_path / "file/cache"))

  def fail(*_):
    raise OSError("disk full")

  monkeypatch.setattr(os, "replace", fail)
  folder.load(str(tmp_path / "set"), cache_dir=str(tmp_path / "cache"))
  assert list((tmp_path / "cache").iterdir()) == []


def test_folder_that_cannot_be_listed(tmp_path, monkeypatch):
  _write(tmp_path, *_numbered("a", "b"))
  scandir = os.scandir

  def refuse(path):
    if os.path.basename(path) == "b":
      raise PermissionError(13, "Permission denied")
    return scandir(path)

  monkeypatch.setattr(os, "scandir", refuse)
  with pytest.raises(InputError, match=rf"^{tmp_path}/b: Permission denied$"):
    folder.load(str(tmp_path))


def test_scan_names_the_first_bad_file_of_many(tmp_path, monkeypatch):
  monkeypatch.setattr(folder_scan, "_CHUNK", 2)
  names = _numbered("a", count=30)
  _write(tmp_path, *names)
  for bad in (names[7], names[25]):
    (tmp_path / bad).write_bytes(b"bad")
  with pytest.raises(InputError, match=names[7]):
    folder_scan.scan(str(tmp_path), names)


def test_a_class_may_be_spelled_in_two_ways_in_two_splits(tmp_path):
  nfc, nfd = "caf\u00e9", "cafe\u0301"
  _write(tmp_path, *_numbered(f"train/{nfd}", "train/a", count=3))
  _write(tmp_path, *_numbered(f"test/{nfc}", count=2))
  splits = folder.load(str(tmp_path)).splits
  assert splits["train"].class_names == splits["test"].class_names == ("a", nfc)
  assert splits["test"].read_labels().tolist() == [1, 1]
  assert len(_names(splits["train"])) == 6
  assert splits["train"].examples[5]["image"]
  _write(tmp_path, f"train/{nfc}/9.png")
  with pytest.raises(InputError, match=f"have the name '{nfc}'"):
    folder.load(str(tmp_path))
