import tarfile

import pytest
import tensorflow_datasets as tfds

from bit_jax.errors import InputError
from bit_jax.tools.pack import __main__ as pack
from tests.tools.pack.sets import load, records, run, tree, write


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
    ({"src": "twice"}, "twice: class 'a' is there twice: as a and as a.tar"),
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
