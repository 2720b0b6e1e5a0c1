import concurrent.futures
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from bit_jax.data import datasets
from bit_jax.errors import InputError
from tests.data.tiny_tfds import edit_info, noisy_png, write_tiny_tfds


def _images(source):
  return [source.examples[i]["image"] for i in range(len(source))]


def _labels(source):
  return [source.examples[i]["label"] for i in range(len(source))]


def test_source(tmp_path):
  write_tiny_tfds(tmp_path, "tiny", 3, 4, 16, num_shards=2)
  source = datasets.load("tiny", "train[2:10]", data_dir=str(tmp_path))
  assert source.name == "tiny train[2:10]"
  assert source.class_names == ("0", "1", "2")
  assert source.image_px == (16, 16)
  assert _labels(source) == [2, 0, 1, 2, 0, 1, 2, 0]
  assert type(source.examples[0]["label"]) is int
  assert (source.native_px, source.flip, source.multi_label) == (0, True, False)
  labels = source.read_labels()
  assert labels.dtype == np.int64
  assert labels.tolist() == _labels(source)
  # The bytes as they were written, not decoded and not encoded again.
  image = noisy_png("train", 3, 0, 16)
  assert source.examples[1] == {"image": image, "label": 0}
  for index in (8, -1):
    with pytest.raises(IndexError):
      source.examples[index]


def test_splits_are_joined_in_the_order_of_the_text(tmp_path):
  write_tiny_tfds(tmp_path)
  source = datasets.load("tiny", "test[:2]+train[5:6]", data_dir=str(tmp_path))
  assert _images(source) == [
    noisy_png("test", 0, 0, 16),
    noisy_png("test", 1, 1, 16),
    noisy_png("train", 5, 2, 16),
  ]


def test_many_threads_read_at_once(tmp_path):
  write_tiny_tfds(tmp_path, num_classes=4, per_class=50, num_shards=5)
  source = datasets.load("tiny", "train", data_dir=str(tmp_path))
  indices = np.random.default_rng(0).integers(0, len(source), 1000).tolist()
  with concurrent.futures.ThreadPoolExecutor(16) as pool:
    examples = list(pool.map(source.examples.__getitem__, indices))
  for index, example in zip(indices, examples, strict=True):
    assert example["image"] == noisy_png("train", index, index % 4, 16)


def test_works_without_tensorflow_and_without_warnings(tmp_path):
  write_tiny_tfds(tmp_path)
  code = f"""if True:
    import sys
    from bit_jax.data import datasets, decode
    dataset = datasets.open_dataset("tiny", data_dir={str(tmp_path)!r})
    source = dataset.load(dataset.default_splits()[0] + "[:50%]")
    decode.decode(source.examples[0]["image"], "x"), source.read_labels()
    assert "tensorflow" not in sys.modules
  """
  result = subprocess.run(
    [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True
  )
  assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def _features(label, shape=(None, None, 3), **more):
  image = tfds.features.Image(shape=shape)
  return {"image": image, "label": label, **more}


def test_image_px_is_the_median_or_the_declared_size(tmp_path):
  sizes = [50, 10, 40, 20, 30]
  label = tfds.features.ClassLabel(names=["only"])
  for name, shape in {"any": (None, None, 3), "fixed": (24, 32, 3)}.items():
    write_tiny_tfds(
      tmp_path,
      name,
      num_classes=1,
      per_class=5,
      features=_features(label, shape),
      # TFDS does not look into encoded bytes, so "fixed" may lie in a test.
      make_example=lambda split, index: {
        "image": noisy_png(split, index, 0, sizes[index]),
        "label": 0,
      },
    )
    source = datasets.load(name, "train", data_dir=str(tmp_path))
    assert source.image_px == ((30, 30) if name == "any" else (24, 32))
    assert source.class_names == ("only",)


def test_label_key_and_other_features(tmp_path):
  write_tiny_tfds(
    tmp_path,
    features=_features(
      tfds.features.ClassLabel(num_classes=3),
      coarse=tfds.features.ClassLabel(names=["x", "y"]),
      mask=tfds.features.Image(shape=(None, None, 3)),
    ),
    # A mask that would fail to decode shows that it is not decoded.
    make_example=lambda split, index: {
      "image": noisy_png(split, index, 0, 8),
      "label": index % 3,
      "coarse": index % 2,
      "mask": b"no image",
    },
  )
  source = datasets.load(
    "tiny", "train[:4]", data_dir=str(tmp_path), label_key="coarse"
  )
  assert source.class_names == ("x", "y")
  assert _labels(source) == source.read_labels().tolist() == [0, 1, 0, 1]
  assert set(source.examples[0]) == {"image", "label"}
  other = datasets.load("tiny", "train[:4]", data_dir=str(tmp_path))
  assert other.fingerprint != source.fingerprint


def test_multi_label(tmp_path):
  write_tiny_tfds(
    tmp_path,
    features=_features(
      tfds.features.Sequence(tfds.features.ClassLabel(num_classes=3))
    ),
    make_example=lambda split, index: {
      "image": noisy_png(split, index, 0, 8),
      "label": list(range(index % 3)),
    },
  )
  source = datasets.load("tiny", "train", data_dir=str(tmp_path))
  assert source.multi_label
  assert source.num_classes == 3
  assert _labels(source)[:4] == [[], [0], [0, 1], []]
  with pytest.raises(InputError, match="tiny train: images have several label"):
    source.read_labels()


def test_fingerprint(tmp_path):
  for folder in ("a", "b"):
    write_tiny_tfds(tmp_path / folder)
  write_tiny_tfds(tmp_path / "version", version="1.0.1")
  write_tiny_tfds(tmp_path / "name", "other")
  write_tiny_tfds(tmp_path / "shards", num_shards=2)

  def fingerprint(folder, split="train", name="tiny"):
    data_dir = str(tmp_path / folder)
    return datasets.load(name, split, data_dir=data_dir).fingerprint

  want = fingerprint("a")
  assert fingerprint("b") == want
  others = {
    fingerprint("a", "test"),
    fingerprint("a", "train[:4]"),
    fingerprint("version"),
    fingerprint("name", name="other"),
    fingerprint("shards"),
  }
  assert len(others | {want}) == 6


def test_set_converted_beside_its_tfrecord_files(tmp_path):
  folder = write_tiny_tfds(tmp_path)
  edit_info(
    folder, fileFormat="tfrecord", alternativeFileFormats=["array_record"]
  )
  source = datasets.load("tiny", "train", data_dir=str(tmp_path))
  assert _labels(source) == [0, 1, 2] * 4


def test_nothing_is_written(tmp_path):
  write_tiny_tfds(tmp_path)
  before = sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*"))
  datasets.load("tiny", "train", data_dir=str(tmp_path)).read_labels()
  after = sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*"))
  assert after == before


_LABEL = tfds.features.ClassLabel(num_classes=3)
_DATA_FILE = "tiny-train.array_record-00000-of-00001"


def _shorten(file, size):
  os.truncate(file, size)


_DAMAGED = {
  "no image": (
    {"features": {"label": _LABEL}},
    lambda folder: None,
    "tiny train: no image feature 'image'; the features are label",
  ),
  "label is a number": (
    {"features": _features(tfds.features.Scalar(np.int64))},
    lambda folder: None,
    "tiny train: 'label' is not a class label; the features are image, label",
  ),
  "no label": (
    {
      "features": {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "kind": _LABEL,
      }
    },
    lambda folder: None,
    "tiny train: 'label' is not a class label; the features are image, kind",
  ),
  "file missing": (
    {},
    lambda folder: os.remove(folder / _DATA_FILE),
    f"FOLDER/{_DATA_FILE}: the file is missing",
  ),
  "file empty": (
    {},
    lambda folder: _shorten(folder / _DATA_FILE, 0),
    f"FOLDER/{_DATA_FILE}: the file is cut, or another one: 0 bytes",
  ),
  "file cut": (
    {},
    lambda folder: _shorten(folder / _DATA_FILE, 2**16 + 1),
    f"FOLDER/{_DATA_FILE}: the file is cut, or another one: 65,537 bytes",
  ),
  "class names cut": (
    {},
    lambda folder: (folder / "label.labels.txt").write_text("a"),
    "tiny train: FOLDER/label.labels.txt has 1 class names, but features",
  ),
  "features damaged": (
    {},
    lambda folder: _shorten(folder / "features.json", 40),
    "FOLDER: cannot be read as a TFDS set (",
  ),
}


@pytest.mark.parametrize("case", _DAMAGED)
def test_unusable_set(tmp_path, case):
  options, damage, message = _DAMAGED[case]
  example = {"image": noisy_png("train", 0, 0, 8), "label": 0, "kind": 0}
  if "features" in options:
    keys = options["features"]
    options = options | {
      "make_example": lambda *_: {key: example[key] for key in keys}
    }
  folder = write_tiny_tfds(tmp_path, **options)
  damage(folder)
  with pytest.raises(InputError) as error:
    datasets.load("tiny", "train", data_dir=str(tmp_path))
  assert str(error.value).startswith(message.replace("FOLDER", str(folder)))
  assert "\n" not in str(error.value)
