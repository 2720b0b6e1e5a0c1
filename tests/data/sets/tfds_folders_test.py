import os

import pytest

from bit_jax.data import datasets
from bit_jax.data.sets import tfds_folders
from bit_jax.errors import InputError
from tests.data.tiny_tfds import edit_info, write_tiny_tfds


@pytest.mark.parametrize(
  ("dataset", "found"),
  [
    ("tiny", "tiny/10.0.0"),
    ("tiny:2.*", "tiny/2.1.0"),
    ("tiny:2.*.*", "tiny/2.1.0"),
    ("tiny:2.0.0", "tiny/2.0.0"),
    ("tiny:3.*|2.0.0", "tiny/2.0.0"),
    ("tiny:2.*.*|10.0.0", "tiny/10.0.0"),
    ("many/one", "many/one/1.0.0"),
    ("many/two:1.0.0", "many/two/1.0.0"),
    ("single", "single/plain/1.0.0"),
    ("single:1.*", "single/plain/1.0.0"),
  ],
)
def test_newest_version_that_fits_is_found(tmp_path, dataset, found):
  for version in ("2.0.0", "10.0.0", "2.1.0"):
    write_tiny_tfds(tmp_path, version=version, splits=["train"])
  for name, config in (("many", "one"), ("many", "two"), ("single", "plain")):
    write_tiny_tfds(tmp_path, name, config=config, splits=["train"])
  # A newer version that is only a tfrecord, or half prepared, is no use.
  newer = write_tiny_tfds(tmp_path, version="11.0.0", splits=["train"])
  edit_info(newer, fileFormat="tfrecord")
  (tmp_path / "tiny/12.0.0").mkdir()
  (tmp_path / "tiny/10.0.1.incompleteABC").mkdir()
  assert tfds_folders.find(dataset, str(tmp_path)) == tmp_path / found
  assert len(datasets.load(dataset, "train", data_dir=str(tmp_path))) == 12


@pytest.mark.parametrize("given", [True, False])
def test_data_dir_defaults(tmp_path, monkeypatch, given):
  home = tmp_path / "home"
  monkeypatch.setenv("HOME", str(home))
  if given:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "named"))
  else:
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
  write_tiny_tfds(tmp_path / "named", per_class=1)
  write_tiny_tfds(home / "tensorflow_datasets", per_class=2)
  assert len(datasets.load("tiny", "train")) == (3 if given else 6)
  there = datasets.load("tiny", "train", data_dir="~/tensorflow_datasets")
  assert len(there) == 6


_MISSING = {
  "not prepared": (
    "cifar10",
    "dataset 'cifar10' is not in data_dir ROOT, which holds many/one, "
    "many/two, old, tiny; prepare it with: "
    "python -m bit_jax.tools.prepare cifar10 --data_dir=ROOT",
  ),
  "config not prepared": (
    "cifar10_corrupted/blur_1:1.*",
    "dataset 'cifar10_corrupted/blur_1:1.*' is not in data_dir ROOT, which",
  ),
  "unknown": (
    "cifra10",
    "unknown dataset 'cifra10': not glyphs, digits, folder:PATH, a TFDS name "
    "or a set in data_dir ROOT, which holds many/one, many/two, old, tiny",
  ),
  "no name": ("", "unknown dataset '': not glyphs"),
  "version": (
    "tiny:3.*",
    "dataset 'tiny:3.*': ROOT/tiny holds no version 3.*, only 1.0.0, 2.0.0",
  ),
  "several versions": (
    "tiny:3.*|4.0.0",
    "dataset 'tiny:3.*|4.0.0': ROOT/tiny holds no version 3.* or 4.0.0, "
    "only 1.0.0, 2.0.0",
  ),
  "several versions, not prepared": (
    "cifar10:2.*.*|3.0.2",
    "dataset 'cifar10:2.*.*|3.0.2' is not in data_dir ROOT, which holds "
    "many/one, many/two, old, tiny; prepare it with: "
    "python -m bit_jax.tools.prepare cifar10:3.0.2 --data_dir=ROOT",
  ),
  "several configs": (
    "many",
    "dataset 'many': ROOT holds several configs, choose one of many/one, "
    "many/two",
  ),
  "tfrecord": (
    "old",
    "dataset 'old': ROOT/old/1.0.0 is stored as tfrecord, which has no random "
    "access; convert it to array_record with: "
    "python -m bit_jax.tools.prepare old --data_dir=ROOT",
  ),
}


@pytest.mark.parametrize("case", _MISSING)
def test_set_that_is_not_there(tmp_path, case):
  dataset, message = _MISSING[case]
  for version in ("1.0.0", "2.0.0"):
    write_tiny_tfds(tmp_path, version=version, splits=["train"])
  for config in ("one", "two"):
    write_tiny_tfds(tmp_path, "many", config=config, splits=["train"])
  old = write_tiny_tfds(tmp_path, "old", splits=["train"])
  edit_info(old, fileFormat="tfrecord")
  with pytest.raises(InputError) as error:
    tfds_folders.find(dataset, str(tmp_path))
  assert str(error.value).startswith(message.replace("ROOT", str(tmp_path)))
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("dataset", "data_dir", "message"),
  [
    ("cifar10", "none", "is not in data_dir none, which does not exist; prep"),
    ("cifar10", ".", "is not in data_dir ., which holds no prepared set; prep"),
    ("pets", ".", "; for a folder of images write folder:pets"),
    ("cifar10", "gs://b", "data_dir gs://b: only local folders can be read"),
  ],
)
def test_data_dir_without_the_set(
  tmp_path, monkeypatch, dataset, data_dir, message
):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "pets/cat").mkdir(parents=True)
  with pytest.raises(InputError) as error:
    tfds_folders.find(dataset, data_dir)
  assert message in str(error.value)


def test_damaged_metadata_is_named(tmp_path):
  file = write_tiny_tfds(tmp_path) / "dataset_info.json"
  os.truncate(file, 40)
  with pytest.raises(InputError) as error:
    tfds_folders.find("tiny", str(tmp_path))
  assert str(error.value).startswith(f"{file}: cannot be read (")
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("dataset", "hint"),
  [
    ("CIFAR10", "did you mean cifar10?"),
    ("cifar-10", "did you mean cifar10?"),
    ("torch/cifar100", "did you mean cifar100?"),
    ("hf:food101", "did you mean food101?"),
    ("imagenet", "did you mean imagenet2012?"),
    ("ILSVRC2012", "did you mean imagenet2012?"),
    ("flowers", "did you mean oxford_flowers102?"),
    ("iiit_pet", "did you mean oxford_iiit_pet?"),
    ("svhn", "did you mean svhn_cropped?"),
    ("digit", "did you mean digits?"),
    ("Glyph", "did you mean glyphs?"),
    ("my_own_sets", "did you mean my_own_set?"),
    ("folder", "for a folder of images write folder:PATH, with its path"),
    ("imagefolder", "for a folder of images write folder:PATH"),
  ],
)
def test_what_an_unknown_name_may_mean(tmp_path, dataset, hint):
  write_tiny_tfds(tmp_path, "my_own_set", splits=["train"])
  with pytest.raises(InputError) as error:
    tfds_folders.find(dataset, str(tmp_path))
  assert f"; {hint}" in str(error.value)
