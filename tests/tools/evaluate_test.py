import dataclasses
import json

import cv2
import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds

from bit_jax import models, weights
from bit_jax.data import subset
from bit_jax.data.sets import folder as image_folder
from bit_jax.models import init
from bit_jax.run import trained_on
from bit_jax.tools import evaluate
from tests import fakes
from tests.data import tiny_tfds

NAMES = ("tench, Tinca tinca", "crane", "ape", "gnu", "pug", "fox", "yak")
# Classes of a folder whose names differ from all of NAMES.
LABEL_MAP = {"tench": "tench", "bird": "gnu", "dog": "pug; fox", "yak": "yak"}
CLASSES = ("tench", "bird", "dog", "yak", "rake")
PLAIN = {"crop": "none", "crop_px": 32, "resize_px": 0, "flip": False}


@pytest.fixture(scope="module")
def params():
  """A network with a random head of 7 classes."""
  model = models.create("R14x0.25", num_classes=7)
  params = init.init_variables(model, jax.random.key(0))["params"]
  shape = params["head"]["kernel"].shape
  params["head"]["kernel"] = jax.random.normal(jax.random.key(1), shape)
  return jax.device_get(params)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, params):
  """Weights with and without names, images by class, and a label map."""
  root = tmp_path_factory.mktemp("evaluate")
  for name, known in (
    ("named.npz", {"class_names": NAMES, "preprocess": PLAIN}),
    ("bare.npz", {}),
  ):
    weights.save_npz(
      root / name, weights.Weights(params, {}, "R14x0.25", **known)
    )
  for i, pixels in enumerate(images()):
    path = root / "images" / CLASSES[i % 5] / f"{i:02}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels[..., ::-1])
  (root / "map.json").write_text(json.dumps(LABEL_MAP))
  (root / "names.txt").write_text("\n".join(NAMES))
  return root


@pytest.fixture(autouse=True)
def cache_dir(tmp_path, monkeypatch):
  """The folder that caches scans of image folders."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  return tmp_path / "cache/bit_jax/folders"


def images():
  return fakes.array_source(23, 7).examples.images


@pytest.fixture(scope="module")
def guesses(params):
  """The outputs for each image, from the largest to the smallest."""
  model = models.create("R14x0.25", num_classes=7)
  scaled = np.float32(images() / 127.5 - 1.0)
  logits = jax.jit(model.apply)({"params": params}, scaled)
  return np.argsort(-np.asarray(logits), axis=-1)


def run(capsys, *argv):
  assert evaluate.main([*map(str, argv), "--batch_size=8"]) == 0
  return capsys.readouterr()


def expected(guesses, i):
  """Returns (top-1 correct, top-5 correct) for each image."""
  right = {"tench": {0}, "bird": {3}, "dog": {4, 5}, "yak": {6}}[CLASSES[i % 5]]
  return guesses[i][0] in right, bool(right & {*guesses[i][:5].tolist()})


def test_numbers_of_a_folder_with_a_label_map(folder, guesses, capsys):
  bench = f"folder:{folder}/images"
  out = run(
    capsys,
    folder / "named.npz",
    f"--benchmark={bench}",
    f"--label_map={folder}/map.json",
    "--per_class",
    "--json",
  )
  got = json.loads(out.out)[bench]
  counted = [i for i in range(23) if i % 5 != 4]
  first, five = np.array([expected(guesses, i) for i in counted]).T
  # An answer in fifth place shows that top-5 accuracy counts five guesses.
  assert guesses[6][4] == NAMES.index(LABEL_MAP[CLASSES[6 % 5]])
  assert got["accuracy"] == first.mean()
  assert got["top5_accuracy"] == five.mean()
  assert 0 < first.mean() < five.mean() < 1
  assert (got["examples"], got["left_out"]) == (19, 4)
  assert got["unmatched"] == ["rake"]
  assert got["preprocess"] == PLAIN
  assert "loss" not in got
  assert out.err == ""
  assert set(got["per_class"]) == set(LABEL_MAP)
  for number, name in enumerate(CLASSES[:4]):
    members = range(number, 23, 5)
    hits = [expected(guesses, i)[0] for i in members]
    assert got["per_class"][name] == {
      "accuracy": np.mean(hits),
      "examples": len(members),
    }
  accuracies = {v["accuracy"] for v in got["per_class"].values()}
  assert len(accuracies) > 1


def test_one_line_a_benchmark(folder, guesses, cache_dir, capsys):
  bench = f"folder:{folder}/images"
  out = run(
    capsys,
    folder / "bare.npz",
    f"--benchmark={bench}, folder:{folder}/images/",
    f"--class_names={folder}/names.txt",
    "--crop_px=32",
    "--preprocess=square",
  )
  # By name alone, tench and yak are known; dog and bird have other names.
  counted = [i for i in range(23) if i % 5 in (0, 3)]
  first, five = np.array([expected(guesses, i) for i in counted]).T
  line = (
    f": accuracy {100 * first.mean():.1f} %, top5_accuracy "
    f"{100 * five.mean():.1f} %, 9 images counted, 14 left out; 3 classes "
    "have no class of the classifier: bird, dog, rake\n"
  )
  assert out.out == f"{bench}{line}{bench}/{line}"
  # The second evaluation reads the folder's scan from the cache.
  assert len(list(cache_dir.iterdir())) == 1
  assert out.err == ""


def test_images_of_the_training_are_left_out(folder, guesses, tmp_path, capsys):
  source = image_folder.load_all(str(folder / "images"))
  # The files stand in the order of the classes.
  numbers = [int(path[-6:-4]) for path in source.files()]
  half = subset.take(source, range(0, 23, 2), "half")
  loaded = weights.load(folder / "named.npz")
  kept = trained_on.describe(half)
  weights.save_npz(
    tmp_path / "trained.npz", dataclasses.replace(loaded, trained_on=kept)
  )
  bench = f"folder:{folder}/images"
  argv = [tmp_path / "trained.npz", f"--benchmark={bench}"]
  argv += [f"--label_map={folder}/map.json"]
  out = run(capsys, *argv, "--json")
  assert "trained on 12 of the 23 images of " in out.err
  assert "left out; --include_trained counts them" in out.err
  got = json.loads(out.out)[bench]
  counted = [i for i in numbers[1::2] if i % 5 != 4]
  first = np.mean([expected(guesses, i)[0] for i in counted])
  assert got["accuracy"] == pytest.approx(first)
  assert (got["examples"], got["trained_on"]) == (len(counted), 12)
  assert got["left_out"] == 11 - len(counted)
  out = run(capsys, *argv)
  assert f"{got['left_out']} left out, 12 left out as trained on" in out.out
  out = run(capsys, *argv, "--include_trained", "--json")
  got = json.loads(out.out)[bench]
  assert (got["examples"], got["trained_on"]) == (19, 0)
  assert "which are counted" in out.err
  # Nothing but training images is no test; a split that is named is.
  kept = trained_on.describe(source)
  weights.save_npz(
    tmp_path / "trained.npz", dataclasses.replace(loaded, trained_on=kept)
  )
  assert evaluate.main([*map(str, argv)]) == 1
  error = capsys.readouterr().err.splitlines()[-1]
  assert "trained on all of its 23 images; --include_trained" in error
  argv[1] = f"--dataset=folder:{folder}/images"
  out = run(capsys, *argv, "--split=train")
  assert "trained on 18 of the 18 images" in out.err
  assert "which are counted" in out.err


def test_weights_that_do_not_say_how_images_are_prepared(folder, capsys):
  argv = [f"--benchmark=folder:{folder}/images", "--crop_px=32"]
  argv += [f"--class_names={folder}/names.txt"]
  out = run(capsys, folder / "bare.npz", "--per_class", *argv)
  assert "note: the weights do not say" in out.err
  assert "crop_px=32" in out.err
  assert out.out.count("\n") == 3
  assert "\n  tench: accuracy " in out.out
  argv += ["--preprocess=central", "--json"]
  out = run(capsys, folder / "bare.npz", *argv)
  (got,) = json.loads(out.out).values()
  assert got["preprocess"]["crop"] == "central"
  assert out.err == ""


@pytest.mark.parametrize(
  ("stored", "kind", "crop_px", "want"),
  [
    ({}, "", 0, ("none", 224, 0)),
    ({}, "central", 0, ("central", 224, 256)),
    ({}, "square", 384, ("none", 384, 0)),
    (PLAIN, "", 0, ("none", 32, 0)),
    (PLAIN, "central", 0, ("central", 32, 37)),
    (
      {"crop": "central", "crop_px": 224, "resize_px": 256, "flip": False},
      "",
      112,
      ("central", 112, 128),
    ),
    (
      {"crop": "central", "crop_px": 224, "resize_px": 256, "flip": False},
      "square",
      0,
      ("none", 224, 0),
    ),
  ],
)
def test_flags_go_before_what_is_stored(stored, kind, crop_px, want):
  got = evaluate.choose_preprocess(stored, kind, crop_px)
  assert (got.crop, got.crop_px, got.resize_px) == want
  assert not got.flip


def test_a_split_of_any_data_set(folder, tmp_path, guesses, capsys):
  tiny_tfds.write_tiny_tfds(
    tmp_path,
    num_classes=7,
    per_class=3,
    splits=("test",),
    features={
      "image": tfds.features.Image(shape=(None, None, 3)),
      "label": tfds.features.ClassLabel(names=list("abcdefg")),
    },
    make_example=lambda _, i: {
      "image": cv2.imencode(".png", images()[i][..., ::-1])[1].tobytes(),
      "label": i % 7,
    },
  )
  (tmp_path / "names.txt").write_text("g\nf\ne\nd\nc\nb\na\n")
  flags = ["--dataset=tiny", f"--data_dir={tmp_path}", "--crop_px=32"]
  label = np.arange(21) % 7
  # Outputs without names are taken in the order of the set, and a note says so.
  out = run(capsys, folder / "bare.npz", "--preprocess=square", *flags)
  first = np.mean(guesses[:21, 0] == label)
  assert out.out.startswith(f"tiny test: accuracy {100 * first:.1f} %, ")
  assert "no class names, its outputs were taken in the order" in out.out
  flags += [f"--class_names={tmp_path}/names.txt", "--split=test[:20]"]
  out = run(capsys, folder / "named.npz", "--json", *flags)
  got = json.loads(out.out)["tiny test[:20]"]
  assert got["accuracy"] == np.mean(guesses[:20, 0] == 6 - label[:20])
  assert got["accuracy"] != pytest.approx(first, abs=0.05)
  assert got["examples"] == 20
  assert not got["assumed_order"]


@pytest.mark.parametrize(
  ("flags", "code", "message"),
  [
    ("/no/such.npz --benchmark=real", 1, "/no/such.npz"),
    ("W --benchmark=reel", 1, "unknown benchmark 'reel'"),
    ("W --benchmark=folder:/no/such", 1, "folder:/no/such does not exist"),
    ("W --benchmark=folder:/no,x,real", 1, "folder:/no,x does not exist"),
    ("W --benchmark=real --data_dir=/no/such", 1, "/no/such"),
    ("W --dataset=nothing --data_dir=/no/such", 1, "unknown dataset"),
    ("W --dataset=glyphs", 1, "none of its classes"),
    ("W --dataset=digits --split=val", 1, "no 'val'"),
    ("W --benchmark=I --class_names=/no/such", 1, "--class_names=/no/such"),
    ("W --benchmark=I --class_names=MAP", 1, "7 outputs, but 1 class names"),
    (
      "W --benchmark=I --batch_size=3",
      1,
      "--batch_size=3: expected a positive",
    ),
    ("W", 2, "one of --benchmark and --dataset"),
    ("W --benchmark=,", 2, "one of --benchmark and --dataset"),
    ("W --benchmark=real --dataset=digits", 2, "one of"),
    ("W --benchmark=real --crop_px=-1", 2, "--crop_px"),
    ("W --benchmark=real --preprocess=random", 2, "--preprocess"),
    ("W --benchmark=real --bench=real", 2, "--bench"),
  ],
)
def test_bad_input(folder, capsys, flags, code, message):
  short = {"W": "named.npz", "MAP": "map.json", "I": "images"}
  argv = []
  for flag in flags.split():
    key, equals, value = flag.rpartition("=")
    prefix = "folder:" if value == "I" else ""
    if value in short:
      value = f"{prefix}{folder}/{short[value]}"
    argv.append(f"{key}{equals}{value}")
  try:
    got = evaluate.main(argv)
  except SystemExit as e:
    got = e.code
  captured = capsys.readouterr()
  assert got == code
  assert message in captured.err
  assert captured.out == ""
  if code == 1:
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
