import cv2
import numpy as np
import pytest

from bit_jax.errors import InputError
from bit_jax.run import sources
from configs import common
from tests.data.tiny_tfds import write_tiny_tfds


def make_data(name, **kw):
  data = common.get_config().data
  data.name = name
  data.update(kw)
  return data


def test_default_splits_and_their_names():
  data = sources.load(make_data("digits"), seed=0)
  assert len(data.train) == 901
  assert list(data.evals) == ["test"]
  assert data.held_out == []


def test_dev_is_evaluated_on(tmp_path):
  for name in ("train/a", "train/b", "dev/a"):
    (tmp_path / name).mkdir(parents=True)
    cv2.imwrite(f"{tmp_path}/{name}/1.png", np.zeros((8, 8, 3)))
  data = sources.load(make_data(f"folder:{tmp_path}"), seed=0)
  assert {name: len(split) for name, split in data.evals.items()} == {"dev": 1}
  assert len(data.train) == 2


def test_nested_classes(tmp_path):
  for name in ("run/x", "run/y", "hop/x", "hop/y"):
    (tmp_path / name).mkdir(parents=True)
    cv2.imwrite(f"{tmp_path}/{name}/1.png", np.zeros((8, 8, 3)))
  with pytest.raises(InputError, match="config.data.nested_classes=true"):
    sources.load(make_data(f"folder:{tmp_path}"), seed=0)
  data = make_data(f"folder:{tmp_path}", nested_classes=True)
  assert sources.load(data, seed=0).train.class_names == ("hop", "run")


def test_sliced_splits():
  data = sources.load(
    make_data(
      "digits", train_split="train[:100]", eval_splits="train[100:], test"
    ),
    seed=0,
  )
  assert len(data.train) == 100
  assert {k: len(v) for k, v in data.evals.items()} == {
    "train[100:]": 801,
    "test": 896,
  }


@pytest.mark.parametrize(
  ("percent_floor", "count"), [(False, 405), (True, 406)]
)
def test_slices_of_slices_and_rounding(percent_floor, count):
  # 55 % of 901 are 495.55.
  keys = {"train_split": "train[55%:]", "eval_splits": "train[55%:][:-400]"}
  data = make_data("digits", percent_floor=percent_floor, **keys)
  loaded = sources.load(data, seed=0)
  assert len(loaded.train) == count
  assert len(loaded.evals["train[55%:][:-400]"]) == count - 400


def test_few_shot_subsets_follow_the_seed():
  def indices(seed, **kw):
    data = make_data("digits", examples_per_class=2, **kw)
    return list(sources.load(data, seed=seed).train.examples.indices)

  assert len(indices(0)) == 20
  assert indices(0) == indices(0)
  assert indices(0) != indices(1)
  assert indices(1, subset_seed=0) == indices(0)
  labels = sources.load(
    make_data("digits", examples_per_class=2), seed=0
  ).train.read_labels()
  np.testing.assert_array_equal(np.bincount(labels), [2] * 10)


def test_more_shots_than_there_are():
  with pytest.raises(InputError, match="fewer than the 1000"):
    sources.load(make_data("digits", examples_per_class=1000), seed=0)


def test_a_subset_is_kept_and_shared_whatever_the_seed(tmp_path):
  path = tmp_path / "subset.json"
  spec = make_data("digits", examples_per_class=2, subset_file=str(path))
  first = sources.load(spec, seed=0).train
  again = sources.load(spec, seed=1).train
  assert list(again.examples.indices) == list(first.examples.indices)
  assert again.fingerprint == first.fingerprint
  spec.examples_per_class = 0
  assert len(sources.load(spec, seed=0).train) == 20
  spec.examples_per_class = 3
  with pytest.raises(InputError, match="does not hold 3 examples of each"):
    sources.load(spec, seed=0)


def test_a_subset_that_is_neither_there_nor_can_be_drawn(tmp_path):
  spec = make_data("digits", subset_file=str(tmp_path / "none.json"))
  with pytest.raises(InputError, match=r"none\.json is not there"):
    sources.load(spec, seed=0)


def test_the_classes_must_be_those_of_a_list(tmp_path):
  path = tmp_path / "names.txt"
  spec = make_data("digits", class_list=str(path))
  path.write_text("\n".join(map(str, range(10))))
  sources.load(spec, seed=0)
  path.write_text("\n".join(map(str, [1, 0, *range(2, 10)])))
  with pytest.raises(InputError, match="another order: class 0 is '0' in the"):
    sources.load(spec, seed=0)


def test_tfds(tmp_path):
  write_tiny_tfds(
    tmp_path, "tiny", num_classes=3, per_class=4, splits=("train", "test")
  )
  data = sources.load(make_data("tiny", dir=str(tmp_path)), seed=0)
  assert data.train.num_classes == 3
  assert len(data.train) == 12
  assert list(data.evals) == ["test"]


def test_a_folder_holds_the_same_files_out_when_it_has_grown(
  tmp_path, monkeypatch
):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

  def add(label, name):
    folder = tmp_path / "photos" / label
    folder.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / name), np.zeros((8, 8, 3), np.uint8))

  for label in ("a", "b"):
    for i in range(5):
      add(label, f"{i}.png")
  spec = make_data(f"folder:{tmp_path / 'photos'}")
  first = sources.load(spec, seed=0)
  assert len(first.held_out) == 2
  assert (len(first.train), len(first.evals["test"])) == (8, 2)
  add("a", "9.png")
  again = sources.load(spec, seed=0, held_out=first.held_out)
  assert again.held_out == first.held_out
  assert (len(again.train), len(again.evals["test"])) == (9, 2)


def held_parts(cache_mb=64, **keys):
  """Which sources of a run on digits are held decoded."""
  config = common.get_config()
  config.input.cache_mb = cache_mb
  # 901 and 896 examples.
  config.input.batch_size = 100
  config.resolved.total_steps = 10
  with config.unlocked():
    config.update_from_flattened_dict(keys)
  data = sources.load(make_data("digits"), seed=0)
  fewshot_sets = sources.load_fewshot_sets("digits", "")
  new_data, new_sets = sources.cache_in_memory(data, fewshot_sets, config)
  assert new_data.train.fingerprint == data.train.fingerprint
  pairs = {
    "train": (data.train, new_data.train),
    "test": (data.evals["test"], new_data.evals["test"]),
    "few-shot train": (fewshot_sets["digits"].train, new_sets["digits"].train),
    "few-shot test": (fewshot_sets["digits"].test, new_sets["digits"].test),
  }
  return {name for name, (old, new) in pairs.items() if old is not new}


def test_what_is_read_more_than_once_is_held():
  assert held_parts() == {"train"}
  evals = {"test", "few-shot train", "few-shot test"}
  assert held_parts(**{"eval.every_steps": 4}) == {"train", *evals}
  assert held_parts(**{"eval.every_steps": 10}) == {"train"}
  less_than_an_epoch = {"resolved.total_steps": 9, "eval.every_steps": 4}
  assert held_parts(**less_than_an_epoch) == evals
  assert held_parts(0, **{"eval.every_steps": 4}) == set()


def test_training_examples_are_held_before_others():
  # A set takes 3.1 MiB.
  every = {"eval.every_steps": 4}
  assert held_parts(4, **every) == {"train"}
  assert held_parts(7, **every) == {"train", "test"}


@pytest.mark.parametrize("shots", [(1, 5), (0,), ()])
def test_too_few_examples_for_few_shot_evaluation(tmp_path, shots):
  for name in [f"{label}/{i}.png" for label in "ab" for i in range(5)]:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(tmp_path / name), np.zeros((8, 8, 3), np.uint8))
  sets = sources.load_fewshot_sets(f"folder:{tmp_path}", "")
  sources.check_shots(sets, (4, 1))
  with pytest.raises(
    InputError, match=r"config.eval.fewshot=folder.*_shots=\(.*examples_per_cl"
  ):
    sources.check_shots(sets, shots)


def test_damaged_images_of_a_folder_can_be_left_out(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  root = tmp_path / "photos"
  for name in [f"{label}/{i}.png" for label in "ab" for i in range(5)]:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(root / name), np.zeros((8, 8, 3), np.uint8))
  (root / "a" / "3.png").write_bytes(b"")
  name = f"folder:{root}"
  with pytest.raises(
    InputError, match="a/3.png: the file is empty; .*skip_bad"
  ):
    sources.load(make_data(name), seed=0)
  data = sources.load(make_data(name, skip_bad=True), seed=0)
  assert list(data.skipped) == [f"{root}/a/3.png: the file is empty"]
  assert len(data.train) + len(data.evals["test"]) == 9
  with pytest.raises(InputError, match="a/3.png: the file is empty"):
    sources.load_fewshot_sets(name, "")
  sets = sources.load_fewshot_sets(name, "", skip_bad=True)
  assert len(sets[name].train) + len(sets[name].test) == 9
