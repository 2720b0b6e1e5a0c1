import gzip
import itertools
import shutil
import tarfile
import threading
import time
import types

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from bit_jax.data import datasets
from bit_jax.data.sets import folder
from bit_jax.errors import InputError
from bit_jax.tools.pack import __main__ as pack
from bit_jax.tools.pack import images, shards

_counter = itertools.count(1)


def write(root, *names):
  """Writes small images, no two alike, and returns the root."""
  for name in names:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((8, 12, 3), next(_counter) % 256, np.uint8)
    pixels[0] = np.random.default_rng(next(_counter)).integers(0, 256, 3)
    path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())
  return root


def numbered(*classes, count=4, suffix=".jpg"):
  return [f"{name}/{i:02}{suffix}" for name in classes for i in range(count)]


def tar(root):
  """Makes a tar of every class folder and removes the folder."""
  for path in [p for p in root.iterdir() if p.is_dir()]:
    with tarfile.open(f"{path}.tar", "w") as file:
      for member in path.iterdir():
        file.add(member, member.name)
    shutil.rmtree(path)


def run(src, data_dir, **kwargs):
  """Packs `src` as set `mine`, in a few shards."""
  pack.pack(str(src), "mine", str(data_dir), **{"shard_mib": 0.001, **kwargs})


def records(data_dir, split="train"):
  """Returns (file_name, bytes, label) of every example, in order."""
  builder = tfds.builder_from_directory(data_dir / "mine" / "1.0.0")
  decoders = {"image": tfds.decode.SkipDecoding()}
  source = builder.as_data_source(split, decoders=decoders)
  return [
    (e["file_name"].decode(), e["image"], np.asarray(e["label"]).tolist())
    for e in (source[i] for i in range(len(source)))
  ]


def load(data_dir, split="train"):
  return datasets.open_dataset("mine", data_dir=str(data_dir)).load(split)


def examples(source):
  """Returns the (bytes, label) of every example, in no order."""
  found = (source.examples[i] for i in range(len(source)))
  return sorted((e["image"], e["label"]) for e in found)


def tree(root):
  return {p: p.lstat().st_mtime_ns for p in root.rglob("*")}


@pytest.fixture
def src(tmp_path):
  return write(tmp_path / "src", *numbered("dog", "cat", count=8))


@pytest.fixture
def out(tmp_path):
  return tmp_path / "out"


def test_packs_a_folder(tmp_path, out, capsys):
  src = write(tmp_path / "src", "dog/a.JPEG", "dog/b.png", "cat/deep/c.webp")
  write(src, "cat/d.bmp", ".hidden/e.jpg", "cat/.f.jpg", "cat/__MACOSX/g.jpg")
  (src / "cat" / "notes.txt").write_text("not an image")
  (src / "cat" / "deep" / "loop").symlink_to(src / "cat")
  before = tree(src)
  args = [str(src), "--name=mine", f"--data_dir={out}"]
  assert pack.main(args) == 0
  last = capsys.readouterr().out.splitlines()[-1]
  assert last.startswith(f"{out}/mine/1.0.0: 4 images of 2 classes, ")
  assert last.endswith(f" use it with dataset=mine,data_dir={out}")

  train = load(out)
  assert train.class_names == ("cat", "dog")
  assert train.image_px == (8, 12)
  assert not train.multi_label
  labels = {"cat": 0, "dog": 1}
  names = ["cat/d.bmp", "cat/deep/c.webp", "dog/a.JPEG", "dog/b.png"]
  assert sorted(records(out)) == [
    (name, (src / name).read_bytes(), labels[name[:3]]) for name in names
  ]
  assert sorted(p.name for p in (out / "mine" / "1.0.0").iterdir()) == [
    "dataset_info.json",
    "features.json",
    "label.labels.txt",
    "mine-train.array_record-00000-of-00001",
  ]
  assert [p.name for p in (out / "mine").iterdir()] == ["1.0.0"]
  assert tree(src) == before


@pytest.mark.parametrize(
  "names",
  [
    numbered("Train/cat", "Train/dog", "val/dog", "test/cat", "test/dog"),
    [*numbered("train/cat", "train/dog", "valid/cat"), "extra/readme.png"],
  ],
)
def test_splits_are_those_of_a_folder_set(tmp_path, out, names):
  src = write(tmp_path / "src", *names)
  for path in src.glob("val"):
    (path / "cat").mkdir()
  run(src, out)
  splits = folder.load(str(src)).splits
  packed = datasets.open_dataset("mine", data_dir=str(out))
  assert list(packed.split_sizes) == list(splits)
  for split, source in splits.items():
    assert packed.load(split).class_names == source.class_names
    assert examples(packed.load(split)) == examples(source)


def test_a_class_can_be_called_train(tmp_path, out):
  run(write(tmp_path / "src", *numbered("train", "val", "plane")), out)
  assert load(out).class_names == ("plane", "train", "val")


def test_the_one_split_can_be_named(src, out):
  run(src, out, split="test")
  assert len(load(out, "test")) == 16


def test_tars_and_folders_are_the_same(tmp_path, src, out):
  write(src, "bird/1.jpg", "bird/2.jpg")
  run(src, out / "folders")
  tar(src)
  with tarfile.open(src / "bird.tar", "a") as file:
    file.add(src / "cat.tar", "readme.txt")
    file.add(src / "cat.tar", "__MACOSX/1.jpg")
    # Unpacking would leave the last file of this name.
    file.add(src / "dog.tar", "./1.jpg")
  with pytest.raises(InputError, match=r"bird.tar \(bird/1.jpg\): not a JPEG"):
    run(src, out / "bad")
  image = write(tmp_path, "new.jpg") / "new.jpg"
  with tarfile.open(src / "bird.tar", "a") as file:
    file.add(image, "./1.jpg")
  run(src, out / "tars")
  expected = records(out / "folders")
  (i,) = [i for i, record in enumerate(expected) if record[0] == "bird/1.jpg"]
  expected[i] = ("bird/1.jpg", image.read_bytes(), 0)
  assert records(out / "tars") == expected


def test_class_list_gives_the_order(src, out, tmp_path):
  names = tmp_path / "names.txt"
  names.write_text("dog\ncat\n")
  run(src, out, class_list=str(names))
  train = load(out)
  assert train.class_names == ("dog", "cat")
  assert all(label == (n[:3] == "cat") for n, _, label in records(out))

  for text, message in (
    ("dog\ncat\nant\n", r"2 and 3; 1 \('ant'\) only in the list"),
    ("dog\nant\n", r"1 \('cat'\) only in the data"),
    ("dog\ncat\ndog\n", "names.txt: 'dog' is repeated"),
  ):
    names.write_text(text)
    with pytest.raises(InputError, match=message):
      run(src, out / "2", class_list=str(names))
  names.write_text("dog\nant\n")
  with pytest.raises(InputError, match=r"1 \('cat'\) only in the data"):
    run(src, out / "2", class_list=str(names), allow_missing=True)
  assert not (out / "2").exists()

  names.write_text("dog\nant\ncat\n")
  run(src, out / "2", class_list=str(names), allow_missing=True)
  assert load(out / "2").class_names == ("dog", "ant", "cat")
  assert set(load(out / "2").read_labels().tolist()) == {0, 2}


def test_several_labels_an_image(tmp_path, out, capsys):
  src = write(tmp_path / "src", "a.jpg", "x/b.jpg", "x/y/c.png", "d.jpg")
  write(src, "unlisted.jpg")
  labels = tmp_path / "labels.csv"
  labels.write_text(
    '\ufeffa.jpg,sun; sea;sun\n./x/b.jpg,sea\n\nx/y/c.png,\nd.jpg,"a, b"\n',
    encoding="utf-8",
  )
  run(src, out, labels=str(labels))
  train = load(out)
  assert train.multi_label
  assert train.class_names == ("a, b", "sea", "sun")
  assert sorted((name, label) for name, _, label in records(out)) == [
    ("a.jpg", [1, 2]),
    ("d.jpg", [0]),
    ("x/b.jpg", [1]),
    ("x/y/c.png", []),
  ]
  got = [train.examples[i] for i in range(4)]
  assert sorted((e["label"], e["image"]) for e in got) == sorted(
    (label, image) for _, image, label in records(out)
  )
  text = capsys.readouterr().out
  assert "left out: 1 images that " in text
  assert " does not list, such as unlisted.jpg" in text

  names = tmp_path / "names.txt"
  names.write_text("sea\nsun\nmoon\na, b\n")
  run(src, out / "2", labels=str(labels), class_list=str(names))
  assert load(out / "2").class_names == ("sea", "sun", "moon", "a, b")


def test_several_labels_in_splits(tmp_path, out):
  src = write(tmp_path / "src", "train/a.jpg", "test/x/b.jpg")
  labels = tmp_path / "labels.csv"
  labels.write_text("train/a.jpg,sun\ntest/x/b.jpg,sea\n")
  run(src, out, labels=str(labels))
  assert [r[::2] for r in records(out, "test")] == [("test/x/b.jpg", [0])]
  assert [r[::2] for r in records(out)] == [("train/a.jpg", [1])]


def test_slices_are_random_subsets_and_always_the_same(tmp_path, out):
  names = numbered("ant", "bee", "cat", count=60, suffix=".png")
  src = write(tmp_path / "src", *names)
  run(src, out / "1", shard_mib=256)
  packed = [record[0] for record in records(out / "1")]
  assert sorted(packed) == names
  half = datasets.open_dataset("mine", data_dir=str(out / "1"))
  labels = half.load("train[:50%]").read_labels()
  counts = np.bincount(labels, minlength=3)
  assert counts.sum() == 90
  assert counts.min() >= 20
  # An image more moves no other.
  write(src, "bee/new.png")
  run(src, out / "2")
  again = [record[0] for record in records(out / "2")]
  again.remove("bee/new.png")
  assert again == packed


def test_shards_have_the_size_asked_for(tmp_path, out):
  src = write(tmp_path / "src", *numbered("ant", "bee", count=50))
  num_bytes = sum(p.stat().st_size for p in src.rglob("*.jpg"))
  run(src, out, shard_mib=num_bytes / 5 / 2**20)
  builder = tfds.builder_from_directory(out / "mine" / "1.0.0")
  assert builder.info.splits["train"].shard_lengths == [20] * 5
  files = sorted(p.name for p in (out / "mine" / "1.0.0").glob("*record*"))
  assert files[-1] == "mine-train.array_record-00004-of-00005"


def test_images_that_cannot_be_used(src, out):
  bad = src / "cat" / "03.jpg"
  good = bad.read_bytes()
  pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
  png, webp = (cv2.imencode(e, pixels)[1].tobytes() for e in (".png", ".webp"))
  for data, message in (
    (b"", "the file is empty"),
    (b"GIF89a", "not a JPEG, PNG, WebP or BMP"),
    (b"GIF89a\xff\xd9", "not a JPEG, PNG, WebP or BMP"),
    (good[:-40], "truncated"),
    (png[:-200], "truncated"),
    (webp[:-400], "not a JPEG, PNG, WebP or BMP"),
    (gzip.compress(good)[:-4], "ended"),
    (gzip.compress(good)[:10] + b"\xff" * 20, "while decompressing"),
    (gzip.compress(good)[:-8] + bytes(8), "CRC"),
  ):
    bad.write_bytes(data)
    with pytest.raises(InputError, match=rf"{bad}: .*{message}.*; --skip_bad"):
      run(src, out, shard_mib=1)
  # What a viewer would show is good enough.
  for data in (good, good + b"\n", png + b"\0", gzip.compress(good), webp):
    bad.write_bytes(data)
    shutil.rmtree(out / "mine", ignore_errors=True)
    run(src, out, shard_mib=1)
    (stored,) = [image for n, image, _ in records(out) if n == "cat/03.jpg"]
    assert stored == (good if data.startswith(b"\x1f\x8b") else data)


def test_bad_images_can_be_left_out(src, out, capsys):
  (src / "cat" / "03.jpg").write_bytes(b"")
  (src / "dog" / "05.jpg").write_bytes(b"?")
  # So many shards that some have no image left.
  args = [str(src), "--name=mine", f"--data_dir={out}", "--shard_mib=1e-9"]
  assert pack.main(args) == 1
  assert capsys.readouterr().err.count("\n") == 1
  assert pack.main([*args, "--skip_bad"]) == 0
  skipped = (out / "mine" / "1.0.0" / "skipped.txt").read_text().splitlines()
  assert [line.partition(":")[0] for line in skipped] == [
    f"{src}/cat/03.jpg",
    f"{src}/dog/05.jpg",
  ]
  last = capsys.readouterr().out.splitlines()[-1]
  assert ": 14 images (2 left out, see skipped.txt) of 2 classes" in last
  builder = tfds.builder_from_directory(out / "mine" / "1.0.0")
  assert (
    sorted(builder.info.splits["train"].shard_lengths) == [0] * 2 + [1] * 14
  )
  names = [f"{p.parent.name}/{p.name}" for p in src.rglob("*.jpg")]
  assert {record[0] for record in records(out)} == set(names) - {
    "cat/03.jpg",
    "dog/05.jpg",
  }
  assert len(load(out, "train[3:]")) == 11


def test_a_file_that_cannot_be_read_is_never_left_out(src, out, monkeypatch):
  # The disk failed, not the image; the next run may find it.
  read = images.Images.read

  def fail(self, index):
    if self.names[index] == "cat/03.jpg":
      (src / "cat" / "03.jpg").rename(src / "moved")
    return read(self, index)

  monkeypatch.setattr(images.Images, "read", fail)
  with pytest.raises(InputError, match="cat/03.jpg: No such file"):
    run(src, out, skip_bad=True)


def test_a_split_without_images_is_an_error(tmp_path, out):
  src = write(tmp_path / "src", *numbered("train/a", "train/b", "val/a"))
  for path in (src / "val" / "a").iterdir():
    path.write_bytes(b"")
  with pytest.raises(InputError, match="no image of val can be used, such as"):
    run(src, out, skip_bad=True)
  assert not (out / "mine" / "1.0.0").exists()


class Stop:
  """Makes reading stop like Ctrl-C before the image of a given number."""

  def __init__(self, monkeypatch, after):
    self.left = after
    read = images.Images.read

    def count(images, index):
      self.left -= 1
      if self.left < 0:
        raise KeyboardInterrupt
      return read(images, index)

    monkeypatch.setattr(images.Images, "read", count)
    monkeypatch.setattr(shards, "_NUM_THREADS", 1)


def test_goes_on_after_the_last_finished_shard(src, out, monkeypatch, capsys):
  mib = 1e-9  # A shard an image.
  run(src, out / "whole", shard_mib=mib)
  args = [str(src), "--name=mine", f"--data_dir={out}", f"--shard_mib={mib}"]
  with monkeypatch.context() as patch:
    Stop(patch, 5)
    assert pack.main(args) == 130
  assert capsys.readouterr().err == ""
  unfinished = out / "mine" / "incomplete.1.0.0"
  finished = {
    p.name: p.stat().st_mtime_ns for p in unfinished.glob("*-of-00016")
  }
  assert len(finished) == 5
  with pytest.raises(InputError, match="unknown dataset 'mine'"):
    load(out)

  with monkeypatch.context() as patch:
    rest = Stop(patch, 16)
    assert pack.main(args) == 0
  assert rest.left == 5
  assert records(out) == records(out / "whole")
  assert not list((out / "mine" / "1.0.0").glob("*.part"))
  for name, mtime in finished.items():
    assert (out / "mine" / "1.0.0" / name).stat().st_mtime_ns == mtime


def test_does_not_go_on_with_something_else(src, out, monkeypatch, tmp_path):
  with monkeypatch.context() as patch:
    Stop(patch, 0)
    with pytest.raises(KeyboardInterrupt):
      run(src, out)
  before = tree(out)
  names = tmp_path / "names.txt"

  def check(**kwargs):
    with pytest.raises(InputError, match="0.0 is an unfinished pack of other"):
      run(src, out, **kwargs)

  check(shard_mib=0.002)
  names.write_text("dog\ncat\n")
  check(class_list=str(names))
  names.write_text("cat\ndog\nant\n")
  check(class_list=str(names), allow_missing=True)
  (src / "cat" / "07.jpg").rename(src / "cat" / "08.jpg")
  check()
  (src / "cat" / "08.jpg").rename(src / "dog" / "08.jpg")
  check()
  assert tree(out) == before
  (out / "mine" / "incomplete.1.0.0" / "pack.json").write_text("{")
  with pytest.raises(InputError, match="pack.json: cannot be read .*; remove"):
    run(src, out)


def test_an_error_stops_all_threads(src, out, monkeypatch):
  reads, second = itertools.count(), threading.Event()

  def read(self, index):
    # For a process that is killed before the first shard is finished.
    assert (out / "mine" / "incomplete.1.0.0" / "pack.json").exists()
    if next(reads):
      second.set()
      time.sleep(0.1)
      return b""
    second.wait(10)
    raise InputError("the first")

  monkeypatch.setattr(images.Images, "read", read)
  monkeypatch.setattr(shards, "checked", lambda data, name: data)
  with pytest.raises(InputError, match="the first"):
    run(src, out, shard_mib=0.005)
  assert 2 <= next(reads) < 8


def test_a_finished_set_is_not_touched(src, out):
  run(src, out)
  before = tree(out)
  with pytest.raises(InputError, match="out/mine/1.0.0 is there already"):
    run(src, out)
  assert tree(out) == before
  run(src, out, version="1.0.1")
  newest = tfds.builder_from_directory(out / "mine" / "1.0.1")
  assert newest.info.full_name == "mine/1.0.1"
  assert len(load(out)) == 16


def test_files_that_cannot_be_written(src, out, monkeypatch):
  shard = "mine-train.array_record-00000-of-00001"
  (out / "mine" / "incomplete.1.0.0" / f"{shard}.part").mkdir(parents=True)
  with pytest.raises(InputError, match=f"{shard}.part: cannot be written"):
    run(src, out, shard_mib=1)
  usage = types.SimpleNamespace(free=10)
  monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
  with pytest.raises(
    InputError, match="needs about .* more, but 10 B are free"
  ):
    run(src, out / "2")
  assert not (out / "2").exists()


def test_tells_how_far_it_is(src, out, monkeypatch, capsys):
  monkeypatch.setattr(shards, "_PROGRESS_SECS", 0)
  run(src, out)
  assert "16 of 16 images, " in capsys.readouterr().out


@pytest.mark.parametrize(
  ("kwargs", "message"),
  [
    ({"name": "my-set"}, "--name=my-set: expected letters"),
    ({"name": "../x"}, "--name=../x: expected"),
    ({"name": "glyphs"}, "--name=glyphs means something else"),
    ({"version": "1.0"}, "--version=1.0: expected three numbers"),
    ({"split": "a/b"}, "--split=a/b: expected"),
    ({"data_dir": "gs://bucket"}, "gs://bucket is not a local folder"),
    ({"data_dir": "src/cat/00.jpg"}, "00.jpg cannot be written to"),
    ({"data_dir": "src/cat"}, "src/cat is in src; choose another"),
    ({"data_dir": "src"}, "src is in src; choose another"),
    ({"src": "gone"}, "gone does not exist; expected SRC/CLASS/IMAGE"),
    ({"src": "src/cat/00.jpg"}, "00.jpg is not a folder"),
    ({"src": "src/cat"}, "src/cat: the images are not in class folders"),
    ({"src": "empty"}, "empty: there are no class folders and no class tars"),
    ({"src": "hollow"}, "hollow/b: there are no images in it"),
    ({"src": "dangling"}, "dangling/a/0.jpg: No such file or directory"),
    ({"src": "bare", "class_list": "names", "allow_missing": True}, "bare: no"),
    ({"src": "one"}, "one: 'a' is the only class"),
    ({"src": "twice"}, "twice: class 'a' is a folder and a tar"),
    ({"src": "tgz"}, "tgz/a.tar: cannot be read as an uncompressed tar"),
    ({"src": "cut"}, "cut/a.tar: cannot be read as an uncompressed tar"),
    ({"src": "blank"}, "blank: ' b' cannot be the name of a class"),
    ({"src": "splits"}, "class 'b' is in val but not train"),
    ({"src": "splits", "split": "test"}, "has train, val folders"),
    ({"src": "no_train"}, "there is no train folder beside val and test"),
    ({"class_list": "gone"}, "--class_list=gone cannot be read"),
    ({"labels": "gone"}, "--labels=gone cannot be read: .*No such file"),
    ({"labels": "columns"}, "columns line 2: expected IMAGE,CLASS;CLASS"),
    ({"labels": "double"}, "double line 3: cat/00.jpg is listed twice"),
    ({"labels": "missing"}, "missing: 'cat/gone.jpg' is no image below .*src"),
    ({"labels": "none"}, "none: there are no classes in it"),
    ({"labels": "src/cat/00.jpg"}, "00.jpg cannot be read"),
    (
      {"labels": "fine", "class_list": "names"},
      "fine: 'dog', a class of cat/01.jpg, is not in the --class_list",
    ),
    (
      {"labels": "fine", "src": "splits"},
      "fine: 'cat/00.jpg' is no image below",
    ),
    ({"labels": "partly", "src": "splits"}, "partly lists no image of .*val"),
  ],
)
def test_bad_input(tmp_path, monkeypatch, src, kwargs, message):
  monkeypatch.chdir(tmp_path)
  write(tmp_path, "one/a/0.jpg", "hollow/a/0.jpg", "twice/a/0.jpg")
  write(tmp_path, "cut/b/0.jpg", "tgz/b/0.jpg", "blank/a/0.jpg")
  write(tmp_path, "splits/train/a/0.jpg", "splits/train/c/0.jpg")
  write(tmp_path, "splits/val/b/0.jpg", "no_train/val/a/0.jpg")
  write(tmp_path, "no_train/test/b/0.jpg", "blank/ b/0.jpg")
  for name in ("empty", "hollow/b", "bare/cat", "dangling/a"):
    (tmp_path / name).mkdir(parents=True)
  write(tmp_path, "dangling/b/0.jpg")
  (tmp_path / "dangling" / "a" / "0.jpg").symlink_to("gone")
  for name, mode in (("twice", "w"), ("tgz", "w:gz"), ("cut", "w")):
    with tarfile.open(tmp_path / name / "a.tar", mode) as file:
      file.add(src / "cat", "")
  data = (tmp_path / "cut" / "a.tar").read_bytes()
  (tmp_path / "cut" / "a.tar").write_bytes(data[: data.find(b"JFIF") + 100])
  for name, text in (
    ("names", "cat\nant\n"),
    ("columns", "cat/00.jpg,a\ncat/01.jpg\n"),
    ("double", "cat/00.jpg,a\n\ncat/./00.jpg,b\n"),
    ("missing", "cat/00.jpg,a\ncat/gone.jpg,b\n"),
    ("none", "cat/00.jpg,\n"),
    ("fine", "cat/00.jpg,cat\ncat/01.jpg,cat;dog\n"),
    ("partly", "train/a/0.jpg,cat\n"),
  ):
    (tmp_path / name).write_text(text)
  before = tree(tmp_path)
  args = {"src": "src", "name": "mine", "data_dir": "out", **kwargs}
  with pytest.raises(InputError, match=message):
    pack.pack(**args)
  assert tree(tmp_path) == before


@pytest.mark.parametrize(
  "args",
  [
    [],
    ["src"],
    ["src", "--name=x"],
    ["src", "--data_dir=x"],
    ["src", "--name=x", "--data_dir=x", "--nope"],
    ["src", "--name=x", "--data_dir=x", "--ver=1.0.0"],
    ["src", "--name=x", "--data_dir=x", "--shard_mib=0"],
    ["src", "--name=x", "--data_dir=x", "--shard_mib=inf"],
    ["src", "--name=x", "--data_dir=x", "--allow_missing"],
  ],
)
def test_a_wrong_command_line_exits_2(args, capsys):
  with pytest.raises(SystemExit) as exit_info:
    pack.main(args)
  assert exit_info.value.code == 2
  assert "error: " in capsys.readouterr().err
