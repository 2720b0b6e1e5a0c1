import functools
import json
import tempfile

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from bit_jax.data import decode
from bit_jax.errors import InputError
from bit_jax.evaluate import robustness
from tests import fakes
from tests.data import tiny_tfds

# Labels of the ReaL images, as numbers of ImageNet's classes.
REAL = [[7], [], [3, 8], [999], [8], []]


@functools.cache
def declared(name):
  """Returns the features of a builder in the installed TFDS."""
  with tempfile.TemporaryDirectory() as empty:
    return dict(tfds.builder(name, data_dir=empty).info.features.items())


@functools.cache
def wordnet_ids():
  return tuple(declared("imagenet_v2/topimages")["label"].names)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  """ReaL, and ImageNet-v2 with other labels in each config."""
  folder = tmp_path_factory.mktemp("tfds")

  def write(name, version, split, count, label):
    dataset, _, config = name.partition("/")
    tiny_tfds.write_tiny_tfds(
      folder,
      dataset,
      num_classes=1,
      per_class=count,
      splits=(split,),
      config=config,
      version=version,
      features=declared(name),
      make_example=lambda _, i: {
        "image": tiny_tfds.noisy_png(split, i, i, 16),
        "file_name": f"{i}.jpg",
        **label(i),
      },
    )

  write(
    "imagenet2012_real",
    "1.0.0",
    "validation",
    len(REAL),
    lambda i: {"original_label": 5, "real_label": REAL[i]},
  )
  for config, shift in [("matched-frequency", 0), ("threshold-0.7", 500)]:
    write(
      f"imagenet_v2/{config}",
      "3.0.0",
      "test",
      3,
      lambda i, shift=shift: {"label": 10 * i + shift},
    )
  return str(folder)


def write_images(root, **counts):
  """Writes `count` 8 px images of a class with a red border."""
  for label, (name, count) in enumerate(counts.items()):
    (root / name).mkdir(parents=True)
    for i in range(count):
      pixels = np.full((8, 8, 3), 10 * label + i, np.uint8)
      cv2.rectangle(pixels, (0, 0), (7, 7), (0, 0, 255))
      cv2.imwrite(str(root / name / f"{i}.png"), pixels)
  return root


def labels(benchmark):
  return [benchmark.examples[i]["label"] for i in range(len(benchmark))]


def test_real_labels_are_sets_and_images_without_any_do_not_count(data_dir):
  got = robustness.load("real", wordnet_ids(), data_dir=data_dir)
  assert labels(got) == [[7], [3, 8], [999], [8]]
  assert (got.left_out, got.unmatched, got.assumed_order) == (2, (), False)
  assert got.multi_label
  assert got.class_names == wordnet_ids()
  # Images and labels still belong together.
  kept = [i for i, shown in enumerate(REAL) if shown]
  for i, example in zip(kept, got.examples, strict=True):
    assert example["image"] == tiny_tfds.noisy_png("validation", i, i, 16)
  seven, eight = (wordnet_ids()[i] for i in (7, 8))
  assert got.members[seven].tolist() == [0]
  assert got.members[eight].tolist() == [1, 3]
  part = robustness.load(
    "real", wordnet_ids(), split="validation[:3]", data_dir=data_dir
  )
  assert (len(part), part.left_out) == (2, 1)
  assert part.fingerprint != got.fingerprint
  # Errors name the index of the example in the set, not among those counted.
  with pytest.raises(InputError, match="imagenet2012_real .* example 2: noth"):
    robustness.load(
      "real", wordnet_ids(), data_dir=data_dir, border_px=8
    ).examples[1]


def test_classes_in_another_order_and_number(data_dir):
  # The classifier has the set's classes in reverse order, without two.
  ids = wordnet_ids()
  names = [ids[i] for i in range(999, -1, -1) if i not in (3, 7)]
  got = robustness.load("real", names, data_dir=data_dir)
  assert labels(got) == [[991], [0], [991]]
  assert got.left_out == 3
  assert got.unmatched == (ids[3], ids[7])
  assert list(got.members) == [ids[8], ids[999]]


@pytest.mark.parametrize(
  ("name", "shift"),
  [
    ("imagenet_v2", 0),
    ("imagenet_v2/matched-frequency", 0),
    ("imagenet_v2/threshold-0.7", 500),
  ],
)
def test_imagenet_v2_for_outputs_without_names(data_dir, name, shift):
  numbers = tuple(map(str, range(1000)))
  got = robustness.load(name, numbers, data_dir=data_dir)
  assert labels(got) == [[shift], [shift + 10], [shift + 20]]
  assert got.assumed_order
  assert got.left_out == 0


def test_a_folder_of_images_by_class(tmp_path):
  names = ("tench, Tinca tinca", "fox", "red wolf")
  counts = {"fox": 2, "Tinca tinca": 1, "gnu": 3}
  root = write_images(tmp_path / "images", **counts)
  cache_dir = tmp_path / "cache"
  got = robustness.load(f"folder:{root}", names, cache_dir=str(cache_dir))
  assert len(list(cache_dir.iterdir())) == 1
  # All images are evaluated; none is held out as a test split.
  assert labels(got) == [[0], [1], [1]]
  assert (got.left_out, got.unmatched) == (3, ("gnu",))
  assert {k: v.tolist() for k, v in got.members.items()} == {
    "Tinca tinca": [0],
    "fox": [1, 2],
  }
  assert got.image_px == (8, 8)
  with pytest.raises(InputError, match="several labels"):
    got.read_labels()


def test_a_label_map_allows_several_outputs(tmp_path):
  root = write_images(tmp_path / "images", dog=2, cat=1, fox=1)
  label_map = tmp_path / "map.json"
  label_map.write_text('{"dog": "pug; chow; pug", "cat": ["tabby"]}')
  got = robustness.load(
    f"folder:{root}", ("chow", "fox", "tabby", "pug"), label_map=str(label_map)
  )
  assert labels(got) == [[2], [0, 3], [0, 3]]
  assert (got.left_out, got.unmatched) == (1, ("fox",))


def objectnet(root):
  """Writes a distribution of ObjectNet with 2 classes of ImageNet."""
  write_images(root / "images", chair=2, t_shirt=1, rake=3)
  files = {
    "folder_to_objectnet_label": {"rake": "R", "chair": "C", "t_shirt": "T"},
    "objectnet_to_imagenet_1k": {"C": "rocker", "T": "jersey"},
    "pytorch_to_imagenet_2012_id": {"0": 1, "1": 0},
  }
  (root / "mappings").mkdir()
  for name, content in files.items():
    (root / f"mappings/{name}.json").write_text(json.dumps(content))
  (root / "mappings/imagenet_to_label_2012_v2").write_text("jersey\nrocker\n")
  return root


def test_objectnet_uses_its_own_mappings(tmp_path):
  root = objectnet(tmp_path)
  for path in (root, root / "images"):
    for names in (("rocker", "jersey"), ("0", "1")):
      got = robustness.load(f"objectnet:{path}", names)
      assert labels(got) == [[0], [0], [1]]
      assert (got.left_out, got.unmatched) == (3, ("rake",))
      assert got.assumed_order == (names[0] == "0")
  label_map = tmp_path / "map.json"
  label_map.write_text('{"rake": "fox"}')
  own = robustness.load(
    f"objectnet:{root}", ("fox", "jersey"), label_map=str(label_map)
  )
  assert labels(own) == [[0], [0], [0]]
  with pytest.raises(InputError, match="has no splits, so no 'test'"):
    robustness.load(f"objectnet:{root}", names, split="test")


def test_the_red_border_of_objectnet_is_cut_off(tmp_path):
  root = objectnet(tmp_path)
  names = ("rocker", "jersey")

  def second_image(benchmark, **options):
    image = robustness.load(benchmark, names, **options).examples[1]["image"]
    return image if isinstance(image, np.ndarray) else decode.decode(image, "x")

  cut = second_image(f"objectnet:{root}")
  np.testing.assert_array_equal(cut, np.full((6, 6, 3), 1, np.uint8))
  whole = second_image(f"objectnet:{root}", border_px=0)
  assert whole.shape == (8, 8, 3)
  assert whole[0, 0].tolist() == [255, 0, 0]
  np.testing.assert_array_equal(whole[1:-1, 1:-1], cut)
  mappings = str(root / "mappings")
  plain = second_image(f"folder:{root / 'images'}", label_map=mappings)
  np.testing.assert_array_equal(plain, whole)
  with pytest.raises(InputError, match=r"chair/1.png: nothing.*8 x 8.*of 4 px"):
    second_image(f"objectnet:{root}", border_px=4)


def test_the_fingerprint_follows_images_labels_and_border():
  source = fakes.array_source(3, 3, class_names=("a", "b", "c"))
  got = robustness.relabel(source, ("a", "b", "c"))
  assert labels(got) == [[0], [1], [2]]
  assert (got.native_px, got.flip) == (32, False)
  other = fakes.array_source(3, 3, seed=1, class_names=source.class_names)
  others = [
    robustness.relabel(source, ("a", "c", "b")),
    robustness.relabel(source, got.class_names, border_px=1),
    robustness.relabel(other, got.class_names),
  ]
  assert len({b.fingerprint for b in (got, *others)}) == 4


def test_missing_labels_of_a_set_are_left_out():
  source = fakes.array_source(3, 3)
  source.examples.labels[1] = -1
  got = robustness.relabel(source, source.class_names)
  assert labels(got) == [[0], [2]]
  assert got.left_out == 1
  source.examples.labels[:] = -1
  with pytest.raises(InputError, match="none of its 3 images.*class 0, class"):
    robustness.relabel(source, source.class_names)


@pytest.mark.parametrize(
  ("benchmark", "names", "message"),
  [
    ("reel", "ab", r"unknown benchmark 'reel': expected real, .* or folder:"),
    ("imagenet_v2/top", "ab", "unknown benchmark.*imagenet_v2/topimages"),
    ("objectnet:", "ab", "unknown benchmark"),
    ("folder:PATH/none", "ab", "PATH/none does not exist"),
    ("folder:PATH/dog", "ab", "images are not in class folders"),
    ("folder:PATH/empty", "ab", "PATH/empty: there are no images"),
    ("folder:PATH", "ab", r"folder:PATH: none of its .*\(cat, dog, empty\)"),
    ("objectnet:PATH/none", "ab", "PATH/none does not exist"),
    ("objectnet:PATH", "ab", "needs a label map.*there is no .*mappings"),
    ("imagenet_v2", ("x", "y"), r"\(n01440764, .* 997 more\).*\(x, y\)"),
    ("real", ("n02007558", "x"), "none of its 6 images"),
  ],
)
def test_bad_benchmarks(tmp_path, data_dir, benchmark, names, message):
  write_images(tmp_path, dog=1, cat=1)
  (tmp_path / "empty" / "cat").mkdir(parents=True)
  with pytest.raises(
    InputError, match=message.replace("PATH", str(tmp_path))
  ) as e:
    robustness.load(
      benchmark.replace("PATH", str(tmp_path)), names, data_dir=data_dir
    )
  assert "\n" not in str(e.value)
