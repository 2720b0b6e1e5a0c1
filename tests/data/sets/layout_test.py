import pytest

from bit_jax.data.sets import folder, layout
from bit_jax.data.sets.left_out import LeftOut
from bit_jax.errors import InputError


def _touch(root, *names):
  for name in names:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")


def _splits(root, **kw):
  left_out = LeftOut(str(root))
  found = layout.split_folders(str(root), "expected X", left_out, **kw)
  return {s: path[len(str(root)) + 1 :] for s, path in found.items()}, left_out


@pytest.mark.parametrize(
  ("name", "split"),
  [
    ("train", ("train", "")),
    ("Training", ("train", "")),
    ("TRAINING SET", ("train", "")),
    ("TrainSet", ("train", "")),
    ("trainset", ("train", "")),
    ("test_images", ("test", "")),
    ("Testing Data", ("test", "")),
    ("val", ("val", "")),
    ("Validation", ("validation", "")),
    ("validationset", ("validation", "")),
    ("dev", ("dev", "")),
    ("evaluation", ("eval", "")),
    ("hold-out", ("holdout", "")),
    ("held_out", ("holdout", "")),
    ("cats_train", ("train", "cats")),
    ("train_cats", ("train", "cats")),
    ("CUB-test", ("test", "cub")),
    ("seg.val", ("val", "seg")),
    ("val2017", ("val", "2017")),
    ("ILSVRC2012_img_val", ("val", "ilsvrc 2012")),
    *[(name, None) for name in ("tested", "trains", "invalid", "contest")],
    *[(name, None) for name in ("train_val", "trainval", "retraining", "bus")],
  ],
)
def test_names_of_splits_are_whole_words(name, split):
  assert layout.split_of(name) == split


@pytest.mark.parametrize(
  ("folders", "splits"),
  [
    ("Training Testing", {"train": "Training", "test": "Testing"}),
    ("train dev", {"train": "train", "dev": "dev"}),
    ("train holdout eval", {"train": 0, "holdout": 0, "eval": 0}),
    ("trainset validationset", {"train": 0, "validation": 0}),
    ("cats_train cats_test", {"train": "cats_train", "test": "cats_test"}),
    ("CUB-train CUB-val CUB-test", {"train": 0, "val": 0, "test": 0}),
    ("01-train 02-val 03-test", {"train": 0, "val": 0, "test": "03-test"}),
    ("train_80 test_20", {"train": "train_80", "test": "test_20"}),
    ("train2017 val2017", {"train": "train2017", "val": "val2017"}),
    ("train_x test_x other", {"train": "train_x", "test": "test_x"}),
  ],
)
def test_folders_with_the_names_of_splits(tmp_path, folders, splits):
  for name in folders.split():
    _touch(tmp_path, f"{name}/a/1.jpg", f"{name}/b/1.jpg")
  found, left_out = _splits(tmp_path)
  assert list(found) == list(splits)
  assert all(found[s] == name for s, name in splits.items() if name)
  assert ("other" in folders) == (
    "1 other folder beside the splits: other" in left_out.text()
  )


@pytest.mark.parametrize(
  "folders",
  [
    "bus car train",
    "test_tube test_strip train_track",
    "valid invalid",
    "test control",
    "crash_test bullet_train",
    "train val plane",
    "freight_train passenger_train",
  ],
)
def test_folders_with_images_in_them_are_classes(tmp_path, folders, caplog):
  for name in folders.split():
    _touch(tmp_path, f"{name}/1.jpg")
  assert _splits(tmp_path)[0] == {}
  # Not without a word where they may be meant as splits.
  said = "train, val hold images and no folders, so they are taken for classes"
  assert (said in caplog.text) == (folders == "train val plane")


def test_folders_without_images_may_share_words(tmp_path):
  # A set is one word for all its splits, and it has a train split.
  _touch(
    tmp_path, "dogs_train/a/1.jpg", "cats_test/a/1.jpg", "cats_val/a/1.jpg"
  )
  assert _splits(tmp_path)[0] == {}


def test_some_images_beside_class_folders_do_not_make_a_class(tmp_path):
  _touch(tmp_path, "train/a/1.jpg", "train/1.jpg", "test/a/1.jpg", "test/1.jpg")
  _touch(tmp_path, "notes/1.jpg")
  assert list(_splits(tmp_path)[0]) == ["train", "test"]


@pytest.mark.parametrize(
  ("names", "message"),
  [
    (
      "train/a/1.jpg Training/a/1.jpg test/a/1.jpg",
      "ROOT: Training and train are both named as the train split; rename one",
    ),
    (
      "train/a/1.jpg test/a/1.jpg Testing/a/1.jpg",
      "ROOT: Testing and test are both named as the test split; rename one",
    ),
    (
      "train_0/x/1.jpg val_0/x/1.jpg train_1/x/1.jpg val_1/x/1.jpg",
      "ROOT: there are the splits of several sets (0, 1); give a folder",
    ),
    (
      "a_train/x/1.jpg a_val/x/1.jpg b_train/x/1.jpg b_val/x/1.jpg",
      "ROOT: there are the splits of several sets (a, b); give a folder",
    ),
    (
      "Validation/a/1.jpg Testing/a/1.jpg",
      "ROOT: there is no train folder beside Validation and Testing; expected",
    ),
    (
      "train/a/1.jpg train/b/1.jpg query/a/1.jpg",
      "ROOT: query holds the same folders as train (a), but no split has this "
      "name; name it val or test to evaluate on it; to use train alone, give "
      "ROOT/train",
    ),
    (
      "train/steam/1.jpg train/diesel/1.jpg bus/1.jpg car/1.jpg",
      "ROOT: train holds folders (diesel, steam), as a split does, and bus, "
      "car beside it hold images",
    ),
  ],
)
def test_what_can_be_read_in_two_ways_is_refused(tmp_path, names, message):
  _touch(tmp_path, *names.split())
  with pytest.raises(InputError) as error:
    _splits(tmp_path)
  assert str(error.value).startswith(message.replace("ROOT", str(tmp_path)))


@pytest.mark.parametrize(
  ("folders", "message"),
  [
    # CamVid, Carvana, Stanford Cars, CycleGAN.
    ("train trainannot val valannot", "ROOT/train: the images are not in clas"),
    ("train test train_masks", "ROOT/train: the images are not in class fold"),
    ("cars_train cars_test", "ROOT/cars_train: the images are not in class fo"),
    ("trainA trainB testA testB", "ROOT: there are the splits of several set"),
    ("Train Val Labels", "ROOT/Train: the images are not in class folders; "),
  ],
)
def test_splits_without_class_folders_are_no_classes(
  tmp_path, folders, message
):
  for name in folders.split():
    _touch(tmp_path, f"{name}/1.jpg", f"{name}/2.jpg")
  with pytest.raises(InputError) as error:
    folder.load(str(tmp_path))
  assert str(error.value).startswith(message.replace("ROOT", str(tmp_path)))
  # A run that began with them goes on.
  assert _splits(tmp_path, strict=False)[0] == {}


def test_splits_in_folders_of_their_own_names(tmp_path):
  # As archives are unpacked, by Kaggle too.
  for name in ("seg_train/seg_train", "seg_test/seg_test/seg_test"):
    _touch(tmp_path, f"{name}/a/1.jpg", f"{name}/b/1.jpg", f"{name}/.DS_Store")
  _touch(tmp_path, "seg_pred/seg_pred/1.jpg")
  found, left_out = _splits(tmp_path)
  assert found == {
    "train": "seg_train/seg_train",
    "test": "seg_test/seg_test/seg_test",
  }
  assert left_out.text() == "1 other folder beside the splits: seg_pred"
  # With anything beside it, it is a class.
  _touch(tmp_path, "seg_train/cat/1.jpg", "seg_test/1.jpg")
  assert _splits(tmp_path)[0] == {"train": "seg_train", "test": "seg_test"}


def test_images_without_labels_beside_train_are_left_out(tmp_path):
  # As in the Kaggle set of dogs and cats.
  _touch(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "test1/1.jpg")
  found, left_out = _splits(tmp_path)
  assert list(found) == ["train"]
  assert left_out.text() == "1 other folder beside the splits: test1"


def test_a_train_split_in_an_archive_is_named(tmp_path):
  _touch(tmp_path, "train.zip", "test/a/1.jpg")
  with pytest.raises(InputError, match=r"no train folder .*\.zip 1.*unpack it"):
    _splits(tmp_path)


def test_a_run_that_is_resumed_keeps_its_layout(tmp_path):
  _touch(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "query/a/1.jpg")
  assert _splits(tmp_path, strict=False)[0] == {"train": "train"}


def test_what_is_beside_splits_is_named(tmp_path):
  _touch(tmp_path, "train/a/1.jpg", "test/a/1.jpg", "notes/1.jpg", "1.jpg")
  _touch(tmp_path, "labels.csv", "extra/a/1.jpg", ".git/1.jpg", "@eaDir/1.jpg")
  text = _splits(tmp_path)[1].text()
  assert "1 file that is no image by name (.csv 1), such as labels.csv" in text
  assert "1 image in no class folder: 1.jpg" in text
  assert text.endswith("2 other folders beside the splits: extra, notes")
