import logging
import unicodedata

import pytest

from bit_jax.data.sets import class_folders, folder
from bit_jax.data.sets.left_out import LeftOut
from bit_jax.errors import InputError
from tests.data.sets.folder_test import _names, _numbered, _write

_ASKED = "add --config.data.nested_classes=true"


def _check(where, *names):
  classes = {}
  for name in names:
    classes.setdefault(name[len(where) :].split("/")[0], []).append(name)
  class_folders.check_nesting("/root", f"/root/{where}".rstrip("/"), classes)


@pytest.mark.parametrize(
  ("where", "names"),
  [
    ("", "cat/1.jpg dog/1.jpg"),
    # Folders beside images.
    ("", "cat/1.jpg cat/more/2.jpg cat/most/3.jpg dog/1.jpg"),
    # Tiny ImageNet.
    ("train/", "train/n1/images/1.jpg train/n2/images/1.jpg"),
    ("", "cat/one/folder/1.jpg dog/1.jpg"),
    ("", "cat/cat/1.jpg dog/dog/1.jpg"),
    # One class is refused with what to do about it.
    ("", "data/cat/1.jpg data/dog/1.jpg"),
  ],
)
def test_folders_below_classes(where, names):
  _check(where, *names.split())


@pytest.mark.parametrize(
  ("names", "message"),
  [
    # Splits in another language, or domains.
    (
      "Prueba/a/1.jpg Prueba/b/1.jpg Entreno/a/1.jpg Entreno/b/1.jpg",
      "Entreno, Prueba hold no images, but folders of the same names (a, b); "
      "if these are the classes, name the folders above them train, val or "
      "test, or give one that holds them, such as /root/Prueba; to take",
    ),
    (
      "amazon/images/a/1.jpg amazon/images/b/1.jpg dslr/images/a/1.jpg "
      "dslr/images/b/1.jpg",
      "amazon, dslr hold no images, but folders of the same names (a, b)",
    ),
    # A split, or more of the same classes, beside classes.
    (
      "cat/1.jpg dog/1.jpg test/cat/1.jpg test/dog/1.jpg",
      "test holds no images, but folders of the same names (cat, dog)",
    ),
    (
      "cat/1.jpg dog/1.jpg more/cat/1.jpg",
      "more holds no images, but folders of the same names (cat)",
    ),
    (
      "cat/1.jpg dog/1.jpg test/unknown/1.jpg",
      "class folder 'test' holds no images, but folders that do (unknown)",
    ),
    # Groups of classes.
    (
      "animals/cat/1.jpg animals/dog/1.jpg cars/bus/1.jpg cars/van/1.jpg",
      "class folder 'animals' holds no images, but folders that do (cat, dog); "
      "if these are the classes, give /root/animals or move them up; to take",
    ),
    (
      "cat/1.jpg dog/1.jpg birds/wren/1.jpg birds/duck/1.jpg",
      "class folder 'birds' holds no images, but folders that do (duck, wren)",
    ),
    # An archive of test images beside one of the set.
    (
      "plants/train/a/1.jpg plants/val/a/1.jpg test/test/1.jpg",
      "plants, test hold no images, but folders of the same names (test); if",
    ),
    # Splits below classes.
    (
      "cat/train/1.jpg cat/test/1.jpg dog/train/1.jpg dog/test/1.jpg",
      "cat, dog hold splits (test, train), which are expected above the "
      "classes, as test/cat",
    ),
  ],
)
def test_classes_of_folders_only_are_refused(names, message):
  with pytest.raises(InputError) as error:
    _check("", *names.split())
  assert str(error.value).startswith(f"/root: {message}")
  assert (_ASKED in str(error.value)) == ("splits (" not in message)


@pytest.mark.parametrize(
  ("names", "message"),
  [
    # Oxford's pets; a set of objects; radiographs; objects in splits.
    (
      "images/1.png images/2.png annotations/trimaps/1.png annotations/2.xml",
      "ROOT: images and annotations are not two classes, but images and what",
    ),
    ("JPEGImages/1.png labels/1.txt", "ROOT: JPEGImages and labels are not"),
    # Stanford's dogs.
    (
      "Images/n1/1.png Images/n2/1.png Annotation/n1/1",
      "ROOT: Images and Annotation are not two classes, but images and what is "
      "marked in them; expected PATH/CLASS/IMAGE: if the folders in it are the "
      "classes, give ROOT/Images",
    ),
    (
      "flu/images/1.png flu/masks/1.png well/images/1.png well/masks/1.png",
      "ROOT/flu: images and masks are not two classes",
    ),
    (
      "train/images/1.png train/labels/1.txt val/images/1.png val/labels/1.txt",
      "ROOT/train: images and labels are not two classes",
    ),
  ],
)
def test_images_and_what_is_marked_in_them_are_no_classes(
  tmp_path, names, message
):
  for name in names.split():
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"x")
  with pytest.raises(InputError) as error:
    folder.load(str(tmp_path), nested_classes=True)
  assert str(error.value).startswith(message.replace("ROOT", str(tmp_path)))


def test_masks_may_be_a_class(tmp_path):
  _write(tmp_path, *_numbered("masks", "caps", "images of hats"))
  names = folder.load(str(tmp_path)).splits["train"].class_names
  assert names == ("caps", "images of hats", "masks")


def test_nested_classes_are_accepted_when_asked_for(tmp_path):
  _write(tmp_path, *_numbered("run/clip1", "run/clip2", "hop/clip1", "hop/2"))
  with pytest.raises(InputError, match=_ASKED):
    folder.load(str(tmp_path))
  loaded = folder.load(str(tmp_path), nested_classes=True)
  assert loaded.splits["train"].class_names == ("hop", "run")
  # A run that began before this was asked goes on.
  again = folder.load(str(tmp_path), held_out=loaded.held_out)
  for split, source in again.splits.items():
    assert source.fingerprint == loaded.splits[split].fingerprint


def test_spellings_of_unicode_are_one_class(tmp_path):
  names = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
  _write(tmp_path / "train", f"{names[0]}/1.png", "dog/1.png")
  _write(tmp_path / "val", f"{names[1]}/1.png")
  splits = folder.load(str(tmp_path)).splits
  assert splits["train"].class_names == splits["val"].class_names
  assert splits["val"].read_labels().tolist() == [0]
  _write(tmp_path / "train", f"{names[1]}/1.png")
  with pytest.raises(InputError, match="/train: two class folders have the na"):
    folder.load(str(tmp_path))


@pytest.mark.parametrize(
  ("ours", "theirs"),
  [("cat", "Cat"), ("golden_retriever", "golden retrievers"), ("b-1", "B 1")],
)
def test_another_spelling_in_a_split_is_named(ours, theirs):
  with pytest.raises(InputError) as error:
    class_folders.match("/root", "val", ["dog", theirs], ["dog", ours])
  assert str(error.value) == (
    f"/root: class {theirs!r} is in val but not train, where {ours!r} is; "
    "rename one of them"
  )


@pytest.mark.parametrize(
  ("names", "message"),
  [
    (
      "a/1.heic b/1.heic",
      "ROOT: class folder 'a' has no images in it; it holds 1 file that is no "
      "image by name (.heic 1), such as 1.heic (HEIC: convert it to JPEG)",
    ),
    (
      "1.heic 2.heic",
      "ROOT: there are no class folders; it holds 2 files that",
    ),
    ("x.zip", "ROOT: there are no class folders; it holds 1 file that is no"),
    (
      "train/a/1.jpg train/b/1.jpg test/a/1.heic",
      "ROOT: test has no images; it holds 1 file that is no image by name",
    ),
    (
      "train/a/1.jpg train/b/1.jpg test/1.jpg",
      "ROOT/test: the images are not in class folders; expected PATH/CLASS/IM",
    ),
    (
      "train/data/a/1.jpg train/data/b/1.jpg val/data/a/1.jpg",
      "ROOT: 'data' is the only class folder; if the folders in it are the "
      "classes, move them out of ROOT/train/data",
    ),
    (
      "data/a/1.jpg data/b/1.jpg",
      "ROOT: 'data' is the only class folder; if the folders in it are the "
      "classes, give ROOT/data",
    ),
  ],
)
def test_a_folder_without_what_is_needed_says_what_it_holds(
  tmp_path, names, message
):
  for name in names.split():
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"x")
  with pytest.raises(InputError) as error:
    folder.load(str(tmp_path))
  assert str(error.value).startswith(message.replace("ROOT", str(tmp_path)))


def test_splits_without_labels_can_be_passed_by(tmp_path):
  _write(tmp_path, *_numbered("train/a", "train/b"), "test/1.png")
  with pytest.raises(InputError, match=rf"train alone, give {tmp_path}/train$"):
    folder.load(str(tmp_path))
  folder.load(f"{tmp_path}/train")


def test_a_split_with_another_class_can_be_passed_by(tmp_path):
  # Tiny ImageNet has val/images.
  _write(tmp_path, *_numbered("train/a", "train/b"), "val/images/1.png")
  with pytest.raises(InputError, match=rf"train alone, give {tmp_path}/train$"):
    folder.load(str(tmp_path))


def test_an_archive_is_no_folder(tmp_path):
  (tmp_path / "x.zip").write_bytes(b"x")
  with pytest.raises(InputError, match=r"is not a folder \(an archive: unpack"):
    folder.load(f"{tmp_path}/x.zip")


def test_slashes_at_the_end_change_nothing(tmp_path):
  _write(tmp_path, *_numbered("a", "b"))
  source = folder.load(f"{tmp_path}//").splits["train"]
  assert _names(source)[0].startswith(f"{tmp_path}/a/")
  want = folder.load(str(tmp_path)).splits["train"].fingerprint
  assert source.fingerprint == want


def test_what_is_left_out_is_said_once_in_one_line(tmp_path, caplog):
  _write(tmp_path, *_numbered("train/a", "train/b"), "test/a/1.png")
  _write(tmp_path, "loose.png", "train/loose.png", "extra/a/1.png")
  (tmp_path / "test/b").mkdir()
  (tmp_path / "train/a/x.heic").write_bytes(b"x")
  with caplog.at_level(logging.WARNING):
    folder.load(str(tmp_path))
    folder.load_all(str(tmp_path / "train"))
  splits, train = (record.getMessage() for record in caplog.records)
  assert splits == (
    f"{tmp_path}: left out: 1 file that is no image by name (.heic 1), such as "
    "train/a/x.heic (HEIC: convert it to JPEG); 2 images in no class folder: "
    "loose.png, train/loose.png; 1 other folder beside the splits: extra; 1 "
    "class folder without images: test/b"
  )
  assert train.startswith(
    f"{tmp_path}/train: left out: 1 file that is no image"
  )


def test_what_is_not_used_does_not_change_the_fingerprint(tmp_path):
  _write(tmp_path, *_numbered("a", "b"))
  before = folder.load(str(tmp_path))
  _write(tmp_path, "loose.png", "@eaDir/a/1.png", "a/@eaDir/0.png/S.png")
  (tmp_path / "a/x.heic").write_bytes(b"x")
  (tmp_path / "lost+found").mkdir()
  run = tmp_path / "runs/1"
  (run / "checkpoints/7").mkdir(parents=True)
  (run / "config.json").write_text('{"resolved": {}, "optim": {}}')
  after = folder.load(str(tmp_path))
  assert after.held_out == before.held_out
  for split, source in after.splits.items():
    assert source.fingerprint == before.splits[split].fingerprint
  # The work directory may have been the image folder itself.
  (run / "config.json").rename(tmp_path / "config.json")
  (run / "checkpoints").rename(tmp_path / "checkpoints")
  run.rmdir()
  run.parent.rmdir()
  again = folder.load(str(tmp_path)).splits["train"]
  assert again.fingerprint == before.splits["train"].fingerprint


def test_a_class_that_was_a_work_directory_stays_a_class(tmp_path):
  _write(tmp_path, *_numbered("a", "b"))
  (tmp_path / "a/config.json").write_text('{"resolved": {}, "optim": {}}')
  (tmp_path / "a/checkpoints/7").mkdir(parents=True)
  counted = LeftOut(str(tmp_path))
  root = str(tmp_path)
  found = class_folders.find(root, root, "", counted)
  assert {name: len(images) for name, images in found.items()} == {
    "a": 10,
    "b": 10,
  }


def test_a_cache_among_the_images_is_not_used(tmp_path):
  _write(tmp_path, *_numbered("a", "b"))
  for _ in range(2):
    folder.load(str(tmp_path), cache_dir=str(tmp_path / "cache"))
  assert not (tmp_path / "cache").exists()


def test_a_folder_that_is_misspelt(tmp_path, monkeypatch):
  (tmp_path / "photos").mkdir()
  monkeypatch.chdir(tmp_path)
  for path, meant in (("photo", "photos"), ("./Photos/", "./photos")):
    with pytest.raises(InputError, match=f"did you mean folder:{meant}\\?$"):
      class_folders.find_root(path, "expected x")
  with pytest.raises(InputError, match="^folder: without a path; expected x$"):
    class_folders.find_root("", "expected x")
