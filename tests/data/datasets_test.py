import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from bit_jax.data import datasets
from bit_jax.data.sets import folder
from bit_jax.errors import InputError
from tests.data.tiny_tfds import noisy_png, write_tiny_tfds


def _folder(root, splits=("train", "test"), count=5):
  for split in splits:
    for name in "ab":
      (root / split / name).mkdir(parents=True)
      for i in range(count):
        Image.new("RGB", (8, 8)).save(root / split / name / f"{i}.png")
  return f"folder:{root}"


def _names(source):
  return [
    "/".join(source.examples[i]["name"].split("/")[-3:])
    for i in range(len(source))
  ]


def test_folder_slices_and_sums(tmp_path):
  dataset = datasets.open_dataset(_folder(tmp_path))
  assert dataset.split_sizes == {"train": 10, "test": 10}
  source = dataset.load("test[8:] + train[40%:60%]")
  assert source.name == f"folder:{tmp_path} test[8:] + train[40%:60%]"
  assert _names(source) == [
    "test/b/3.png",
    "test/b/4.png",
    "train/a/4.png",
    "train/b/0.png",
  ]
  assert source.read_labels().tolist() == [1, 1, 0, 1]
  assert len(source) == 4
  with pytest.raises(IndexError):
    source.examples[4]


def test_text_that_selects_all_is_the_split_itself(tmp_path):
  dataset = datasets.open_dataset(_folder(tmp_path))
  fingerprints = [
    dataset.load(text).fingerprint
    for text in ("train", "train[:]", "train[0:100%]")
  ]
  assert len(set(fingerprints)) == 1
  whole = folder.load(str(tmp_path)).splits["train"].fingerprint
  assert set(fingerprints) == {whole}
  others = ["test", "train[:9]", "train[1:]", "train+test", "test+train"]
  others += ["train+train"]
  fingerprints += [dataset.load(text).fingerprint for text in others]
  assert len(set(fingerprints)) == 7


def test_folder_options_are_handed_on(tmp_path):
  name = _folder(tmp_path / "set", ["train"], count=10)
  cache_dir = tmp_path / "cache"
  first = datasets.open_dataset(name, seed=1, cache_dir=str(cache_dir))
  assert len(list(cache_dir.iterdir())) == 1
  assert len(first.held_out) == 4
  assert datasets.open_dataset(name, seed=2).held_out != first.held_out
  resumed = datasets.open_dataset(name, seed=2, held_out=first.held_out)
  assert resumed.held_out == first.held_out


@pytest.mark.parametrize("name", ["glyphs", "digits"])
def test_built_in_sets(name):
  dataset = datasets.open_dataset(name)
  assert dataset.default_splits() == ("train", "test")
  source = dataset.load("test[10:20]")
  assert len(source) == len(source.read_labels()) == 10
  assert (source.native_px, source.flip) == (32, False)
  whole = datasets.load(name, "test")
  np.testing.assert_array_equal(
    source.examples[0]["image"], whole.examples[10]["image"]
  )


@pytest.mark.parametrize("kind", ["folder", "tfds", "digits"])
def test_unknown_split(tmp_path, kind):
  write_tiny_tfds(tmp_path / "sets")
  names = {"folder": _folder(tmp_path / "set"), "tfds": "tiny"}
  name = names.get(kind) or kind
  dataset = datasets.open_dataset(name, data_dir=str(tmp_path / "sets"))
  with pytest.raises(InputError) as error:
    dataset.load("dev")
  assert str(error.value) == (
    f"{name}: split 'dev': there is no 'dev'; the splits are train, test"
  )


@pytest.mark.parametrize(
  ("splits", "want"),
  [
    (["train", "test", "validation"], ("train", "test")),
    (["validation", "train"], ("train", "validation")),
    (["train", "unlabelled"], ("train", "")),
  ],
)
def test_default_splits(tmp_path, splits, want):
  write_tiny_tfds(tmp_path, splits=splits)
  dataset = datasets.open_dataset("tiny", data_dir=str(tmp_path))
  assert dataset.default_splits() == want
  assert list(dataset.split_sizes) == splits


def test_default_splits_of_a_folder(tmp_path):
  dataset = datasets.open_dataset(_folder(tmp_path, ["train", "val"]))
  assert dataset.default_splits() == ("train", "val")


def test_default_splits_pass_over_a_test_split_without_labels(tmp_path):
  write_tiny_tfds(
    tmp_path,
    splits=["train", "validation", "test"],
    features={
      "image": tfds.features.Image(shape=(None, None, 3)),
      "label": tfds.features.ClassLabel(num_classes=3),
    },
    make_example=lambda split, index: {
      "image": noisy_png(split, index, 0, 8),
      "label": -1 if split == "test" else index % 3,
    },
  )
  dataset = datasets.open_dataset("tiny", data_dir=str(tmp_path))
  assert dataset.default_splits() == ("train", "validation")


def test_default_splits_without_train(tmp_path):
  write_tiny_tfds(tmp_path, splits=["part1", "part2"])
  dataset = datasets.open_dataset("tiny", data_dir=str(tmp_path))
  with pytest.raises(InputError, match="tiny: there is no train split, only p"):
    dataset.default_splits()


@pytest.mark.parametrize("kind", ["folder", "builtin", "tfds"])
def test_slices_of_slices(tmp_path, kind):
  write_tiny_tfds(tmp_path, "tiny", splits=["train", "val"])
  names = {
    "folder": _folder(tmp_path / "images"),
    "builtin": "digits",
    "tfds": "tiny",
  }
  dataset = datasets.open_dataset(
    names[kind], data_dir=str(tmp_path), percent_floor=True
  )
  size = dataset.split_sizes["train"]
  assert int(0.55 * size) != round(0.55 * size)
  first, rest = dataset.load("train[:55%]"), dataset.load("train[55%:][1:]")
  assert len(first) == int(0.55 * size)
  assert len(rest) == size - int(0.55 * size) - 1
  want = dataset.load("train").examples[len(first) + 1]["label"]
  assert rest.examples[0]["label"] == want
