import shutil
import tarfile

import pytest

from bit_jax.data import datasets
from bit_jax.data.sets import folder
from bit_jax.errors import InputError
from tests.tools.pack.sets import (
  examples,
  load,
  numbered,
  records,
  run,
  tar,
  write,
)


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


@pytest.mark.parametrize(
  ("train", "val"),
  [("train", "val"), ("ILSVRC2012_img_train", "ILSVRC2012_img_val")],
)
def test_tars_of_splits_are_no_classes(src, out, train, val):
  (src / "cat").rename(src / train)
  (src / "dog").rename(src / val)
  tar(src)
  with pytest.raises(
    InputError, match=f"{train}.tar, {val}.tar are named as splits, and one tar"
  ):
    run(src, out)


def test_images_and_masks_are_no_classes(src, out):
  (src / "cat").rename(src / "Images")
  (src / "dog").rename(src / "masks")
  with pytest.raises(InputError, match="Images and masks are not two classes"):
    run(src, out)
  tar(src)
  with pytest.raises(InputError, match="Images and masks are not two classes"):
    run(src, out)


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
  with pytest.raises(
    InputError, match=r"bird.tar \(bird/1.jpg\): .*not a JPEG"
  ):
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


def test_class_tars_may_end_in_upper_case(src, out):
  tar(src)
  (src / "cat.tar").rename(src / "cat.TAR")
  run(src, out)
  assert load(out).class_names == ("cat", "dog")
  assert {name.split("/")[0] for name, _, _ in records(out)} == {"cat", "dog"}


def test_what_is_left_out_is_printed(src, out, capsys):
  (src / "cat/1.heic").write_bytes(b"x")
  (src / "cat/Thumbs.db").write_bytes(b"x")
  tar(src)
  write(src, "@eaDir/1.jpg", "loose.jpg")
  run(src, out)
  assert load(out).class_names == ("cat", "dog")
  assert (
    "left out: 1 file that is no image by name (.heic 1), such as "
    "cat.tar/1.heic (HEIC: convert it to JPEG); 1 image in no class folder: "
    "loose.jpg\n" in capsys.readouterr().err
  )


@pytest.mark.parametrize("as_tars", [False, True])
def test_nested_classes_are_refused_unless_asked_for(tmp_path, out, as_tars):
  names = numbered("runs/cat", "runs/dog", "jumps/cat", "jumps/dog", count=1)
  src = write(tmp_path / "src", *names)
  if as_tars:
    for path in list(src.iterdir()):
      with tarfile.open(f"{path}.tar", "w") as file:
        file.add(path, ".")
      shutil.rmtree(path)
  with pytest.raises(InputError, match=r"jumps, runs hold no images, but fold"):
    run(src, out)
  run(src, out, nested_classes=True)
  assert load(out).class_names == ("jumps", "runs")


@pytest.mark.parametrize(
  ("names", "message"),
  [
    (["a/1.heic", "b/1.jpg"], r"a: there are no images in it; it holds 1 file"),
    (["1.zip"], r"no class tars; it holds 1 file .* \(an archive: unpack it\)"),
    (["train/Cat/1.jpg", "val/cat/1.jpg"], "not train, where 'Cat' is"),
    (["c.tar", "c.TAR"], "class 'c' is there twice: as c"),
  ],
)
def test_what_cannot_be_used_is_named(tmp_path, out, names, message):
  for name in ["train/dog/1.jpg", *names] if "train" in names[0] else names:
    (tmp_path / "src" / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "src" / name).write_bytes(b"x")
  with pytest.raises(InputError, match=message):
    run(tmp_path / "src", out)


def test_classes_of_two_spellings(tmp_path, src, out):
  write(src, "caf\u00e9/1.jpg")
  names = tmp_path / "names.txt"
  names.write_text("cafe\u0301\ndog\ncat\n")
  run(src, out, class_list=str(names))
  assert load(out).class_names == ("caf\u00e9", "dog", "cat")
  write(src, "cafe\u0301/2.jpg")
  with pytest.raises(InputError, match="class 'caf\u00e9' is there twice"):
    run(src, out / "2")


@pytest.mark.parametrize(
  "name", ["ant.tar.gz", "ant.TGZ", "ant.zip", "cat.tar.part"]
)
def test_archives_of_other_kinds_beside_tars(src, out, name):
  tar(src)
  (src / name).touch()
  with pytest.raises(InputError, match=f"{name}: only uncompressed tars"):
    run(src, out)


def test_checksums_beside_tars_are_left_out(src, out, capsys):
  tar(src)
  for name in ("cat.tar.md5", "cat.tar.torrent", "cat.tar.gz.sha256"):
    (src / name).touch()
  run(src, out)
  assert load(out).class_names == ("cat", "dog")
  assert "left out: 3 files" in capsys.readouterr().err
