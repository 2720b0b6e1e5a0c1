"""Tests of tools/near_duplicates.py and the page it writes."""

import base64
import html
import json
import os
import re
import types

import cv2
import jax
import numpy as np
import pytest

from bit_jax import models, weights
from bit_jax.errors import InputError
from bit_jax.models import init
from bit_jax.tools.near_duplicates import __main__ as near_duplicates
from bit_jax.tools.near_duplicates import page as duplicates_page
from tests import fakes

_CLASSES = ("a & b", "c")


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
  """The folder that caches features."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  return tmp_path / "cache" / "bit_jax" / "features"


def _encode(image, suffix=".png", *options):
  return cv2.imencode(suffix, image, options)[1].tobytes()


@pytest.fixture(scope="module")
def params():
  model = models.create("R14x0.25", num_classes=7)
  variables = init.init_variables(model, jax.random.key(0))
  return jax.device_get(variables["params"])


@pytest.fixture(scope="module")
def params_npz(params, tmp_path_factory):
  path = tmp_path_factory.mktemp("weights") / "params.npz"
  central = {"crop": "central", "crop_px": 32, "resize_px": 48}
  made = weights.Weights(params, {}, "R14x0.25", preprocess=central)
  weights.save_npz(path, made)
  return str(path)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
  """24 train and 12 test images of colour blobs, with copies among them."""
  rng = np.random.default_rng(0)
  blobs = rng.integers(30, 200, (36, 5, 5, 3), np.uint8)
  images = [cv2.resize(b, (40, 36), interpolation=2) for b in blobs]
  train, test = [_encode(i) for i in images[:24]], images[24:]
  train[20] = train[4]
  test = [_encode(image) for image in test]
  test[3] = train[17]
  test[5] = _encode(np.round(images[2] * 1.1 + 5).astype(np.uint8))
  test[8] = _encode(images[9], ".jpg", cv2.IMWRITE_JPEG_QUALITY, 90)
  root = tmp_path_factory.mktemp("photos")
  for split, files in (("train", train), ("test", test)):
    for number, data in enumerate(files):
      name = _CLASSES[2 * number // len(files)]
      folder = root / split / name
      folder.mkdir(parents=True, exist_ok=True)
      (folder / f"{number:02}.png").write_bytes(data)
  return f"folder:{root}"


@pytest.fixture
def search_photos(params_npz, photos, tmp_path, capsys):
  """Runs the command; returns pairs, page, its line and its progress."""
  page, pairs = tmp_path / "new" / "page.html", tmp_path / "pairs.json"

  def search(*flags):
    sets = [f"--query={photos}", f"--index={photos}"]
    files = [f"--out={page}", f"--json={pairs}"]
    assert near_duplicates.main([params_npz, *sets, *files, *flags]) == 0
    shown = capsys.readouterr()
    found = json.loads(pairs.read_text())
    return found, page.read_text(), shown.out, shown.err

  return search


def _numbers(pairs):
  return [(pair["query"], pair["index"]) for pair in pairs]


def test_copies_are_closer_than_all_else(search_photos):
  pairs, page, line, progress = search_photos()
  assert _numbers(pairs)[0] == (3, 17)
  assert sorted(_numbers(pairs)[1:3]) == [(5, 2), (8, 9)]
  assert sorted(query for query, _ in _numbers(pairs)) == list(range(12))
  distances = [pair["distance"] for pair in pairs]
  assert distances == sorted(distances)
  assert distances[0] == 0 < distances[1]
  assert distances[2] < 0.7 * distances[3]
  assert [pair["identical"] for pair in pairs] == [True] + 11 * [False]
  assert "12 pairs" in line
  assert "1 identical; choose a --threshold to know how many" in line
  assert "%" not in line
  assert line.count("\n") == 1
  assert progress == ""
  assert page.count("<b>identical</b>") == 1


def test_files_of_folders_are_named(search_photos, photos):
  pairs, page, *_ = search_photos("--max_pairs=1")
  root = photos.removeprefix("folder:")
  assert pairs == [
    {
      "query": 3,
      "index": 17,
      "distance": 0.0,
      "identical": True,
      "query_file": f"{root}/test/a & b/03.png",
      "index_file": f"{root}/train/c/17.png",
    }
  ]
  assert html.escape(f"{root}/test/a & b/03.png") in page


def test_threshold_takes_all_pairs_up_to_it(search_photos):
  distances = [pair["distance"] for pair in search_photos()[0]]
  limit = (distances[2] + distances[3]) / 2
  pairs, page, line, _ = search_photos(f"--threshold={limit}", "--max_pairs=2")
  assert len(pairs) == 3
  assert page.count("<figcaption>distance ") == 2
  assert "the 2 closest" in page
  assert f">{limit:.4g}</th><td>3</td><td>25.00%</td></tr>" in page
  assert "25.00% of the query examples" in line
  assert [pair["identical"] for pair in pairs] == [True, False, False]


def test_threshold_below_all_gives_an_empty_list(search_photos):
  flags = ["--query_split=test[:3]", "--threshold=0"]
  pairs, page, *_ = search_photos(*flags)
  assert pairs == []
  assert "0 pairs" in page


def test_within_one_set_no_example_is_its_own_neighbour(search_photos):
  flags = ["--query_split=train", "--neighbours=2"]
  pairs, page, line, _ = search_photos(*flags)
  numbers = _numbers(pairs)
  assert numbers[0] == (4, 20)
  assert [pair["identical"] for pair in pairs].count(True) == 1
  assert all(query < index for query, index in numbers)
  assert len(set(numbers)) == len(numbers)
  assert {n for pair in numbers for n in pair} == set(range(24))
  assert "within" in line
  assert ">0.001</th><td>2</td><td>8.33%</td>" in page


def test_page_shows_both_images(search_photos, photos):
  page = search_photos("--max_pairs=2")[1]
  root = photos.removeprefix("folder:")
  sources = re.findall(r'<img.*?src="data:image/png;base64,(.*?)"', page)
  assert len(sources) == 4
  for source, file in zip(
    sources, ("test/a & b/03.png", "train/c/17.png"), strict=False
  ):
    data = np.frombuffer(base64.b64decode(source), np.uint8)
    shown = cv2.imdecode(data, cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(shown, cv2.imread(os.path.join(root, file)))
  assert 'alt="query 3, a &amp; b"' in page
  assert 'alt="index 17, c"' in page
  assert "a & b" not in page


def test_page_needs_nothing_from_elsewhere(search_photos):
  page = search_photos("--max_pairs=2")[1]
  assert not re.search(r"https?:|url\(|@import|<script|<link", page)
  sources = re.findall(r'(?:src|href)="(.*?)"', page)
  assert all(source.startswith("data:") for source in sources)
  assert "width=device-width, initial-scale=1" in page
  assert "color-scheme: light dark" in page
  assert "prefers-color-scheme: dark" in page
  assert ".pairs {" in page
  # The page has one table figure and two pairs of two images.
  assert page.count("<figure") == page.count("</figure>") == 1 + 2 * 3


def _write(page, query, index):
  duplicates_page.write(
    str(page),
    f"{page}.json",
    query,
    index,
    np.zeros((2, 1)),
    np.array([[0], [1]]),
    within=False,
    threshold=None,
    max_pairs=2,
    note="",
  )


def test_identical_means_every_pixel(tmp_path):
  query, index = fakes.array_source(2), fakes.array_source(2)
  index.examples.images[1, 5, 6, 2] ^= 1
  _write(tmp_path / "page", query, index)
  pairs = json.loads((tmp_path / "page.json").read_text())
  assert [pair["identical"] for pair in pairs] == [True, False]


def test_page_that_cannot_be_written_is_an_input_error(tmp_path):
  source = fakes.array_source(2)
  with pytest.raises(InputError, match="cannot be written"):
    _write(tmp_path, source, source)


def test_list_that_cannot_be_written_is_an_input_error(tmp_path):
  source = fakes.array_source(2)
  (tmp_path / "page.json").mkdir()
  with pytest.raises(InputError, match="page.json: cannot be written"):
    _write(tmp_path / "page", source, source)


def test_list_takes_the_place_of_an_older_one_as_a_whole(tmp_path):
  source = fakes.array_source(2)
  pairs, older = tmp_path / "page.json", tmp_path / "older"
  pairs.write_text("older")
  os.link(pairs, older)
  _write(tmp_path / "page", source, source)
  assert len(json.loads(pairs.read_text())) == 2
  assert older.read_text() == "older"


def test_the_same_search_again_computes_nothing(
  search_photos, kept, monkeypatch
):
  without = search_photos("--no_cache")
  assert not kept.exists()
  first = search_photos()
  assert len(list(kept.iterdir())) == 2
  monkeypatch.setattr(near_duplicates.inference, "pipeline", None)
  assert search_photos() == first == without


def test_large_images_are_reduced(tmp_path):
  image = np.full((300, 600, 3), (10, 200, 30), np.uint8)
  source = fakes.array_source()
  source.examples.images = image[None].repeat(2, 0)
  _write(tmp_path / "page", source, source)
  page = (tmp_path / "page").read_text()
  assert 'class="small"' not in page
  encoded = re.search('data:image/webp;base64,(.*?)"', page)[1]
  data = np.frombuffer(base64.b64decode(encoded), np.uint8)
  shown = cv2.imdecode(data, cv2.IMREAD_COLOR)
  assert shown.shape == (80, 160, 3)
  assert np.abs(shown[0, 0].astype(int) - (30, 200, 10)).max() < 8


def test_size_is_the_flags_else_the_weights(search_photos):
  assert "at 32 x 32 pixels" in search_photos("--max_pairs=1")[1]
  page = search_photos("--max_pairs=1", "--crop_px=64")[1]
  assert "at 64 x 64 pixels" in page


def test_progress_counts_examples(search_photos, ended):
  search_photos()
  lines = [re.match(r"features of .* (\w+): (\d+) of (\d+)", t) for t in ended]
  found = [line.groups() for line in lines if line]
  assert found == [("test", "12", "12"), ("train", "24", "24")]


def test_closest_pairs_come_once_and_in_order():
  distances = np.array([[0.2, 0.3], [0.2, 0.5], [0.1, 0.3]])
  numbers = np.array([[1, 2], [0, 2], [1, 0]])

  def choose(within=False, threshold=None, max_pairs=9):
    return duplicates_page.closest_pairs(
      distances,
      numbers,
      within=within,
      threshold=threshold,
      max_pairs=max_pairs,
    )

  assert choose(max_pairs=3) == [(2, 1, 0.1), (0, 1, 0.2), (1, 0, 0.2)]
  assert choose(within=True) == [(1, 2, 0.1), (0, 1, 0.2), (0, 2, 0.3)]
  assert choose(threshold=0.2, max_pairs=1) == choose(max_pairs=3)
  assert len(choose()) == 6


@pytest.mark.parametrize(
  ("label", "multi_label", "shown"),
  [(-1, False, "no label"), ([1, 3], True, "class 1, class 3")],
)
def test_labels_may_be_missing_or_several(
  params_npz, monkeypatch, tmp_path, label, multi_label, shown
):
  class Examples(fakes.ArrayExamples):
    def __getitem__(self, index):
      return {"image": self.images[index], "label": label}

  source = fakes.array_source(
    examples=Examples(8, 4, 0), multi_label=multi_label
  )
  dataset = types.SimpleNamespace(load=lambda split: source)
  monkeypatch.setattr(
    near_duplicates.datasets, "open_dataset", lambda *_, **__: dataset
  )
  page = tmp_path / "page.html"
  argv = [params_npz, "--query=x", "--index=x", f"--out={page}"]
  assert near_duplicates.main(argv) == 0
  assert f'alt="query 0, {shown}"' in page.read_text()


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--query=no_such_set"], "no_such_set"),
    (["--index=folder:/no/such"], "folder:/no/such does not exist"),
    (["--query_split=val"], "there is no 'val'"),
    (["--threshold=1.5"], "--threshold=1.5: expected 0 to 1"),
    (["--threshold=nan"], "--threshold=nan: expected 0 to 1"),
    (["--neighbours=0"], "--neighbours=0: expected 1 or more"),
    (["--max_pairs=0"], "--max_pairs=0: expected 1 or more"),
    (["--crop_px=8"], "--crop_px=8: expected 32 or more"),
    (["--out=/proc/none/page.html"], "/proc/none/page.html: cannot be written"),
    (["--out=/"], "/: cannot be written: it is no file"),
    (["--json=/dev/null"], "/dev/null: cannot be written: it is no file"),
    (["--json=/proc/none"], "/proc/none: cannot be written"),
    (["--json=page.html"], "page and list need a file each"),
    (["--query_split=train[:1]", "--index_split=train[:1]"], "one example"),
  ],
)
def test_bad_input_is_found_before_the_long_computation(
  params_npz, photos, tmp_path, monkeypatch, capsys, flags, message
):
  monkeypatch.chdir(tmp_path)
  monkeypatch.delattr(near_duplicates, "_search")
  argv = [params_npz, f"--query={photos}", f"--index={photos}"]
  assert near_duplicates.main([*argv, "--out=page.html", *flags]) == 1
  shown = capsys.readouterr()
  assert shown.err.startswith("error: ")
  assert message in shown.err
  assert shown.err.count("\n") == 1
  assert not shown.out
  assert not (tmp_path / "page.html").exists()


def test_missing_weights_end_in_one_line(photos, tmp_path, capsys):
  argv = ["/no/such.npz", f"--query={photos}", f"--index={photos}"]
  assert near_duplicates.main([*argv, f"--out={tmp_path}/page.html"]) == 1
  assert capsys.readouterr().err == (
    "error: weights /no/such.npz: no such file or folder\n"
  )


def test_broken_weights_end_in_one_line(params, photos, tmp_path, capsys):
  broken = jax.tree.map(lambda x: x * np.float32(np.nan), params)
  path = tmp_path / "broken.npz"
  weights.save_npz(path, weights.Weights(broken, {}, "R14x0.25"))
  argv = [str(path), f"--query={photos}", f"--index={photos}", "--crop_px=32"]
  assert near_duplicates.main([*argv, f"--out={tmp_path}/page.html"]) == 1
  error = capsys.readouterr().err
  assert "broken.npz: there is inf or nan in them" in error
  assert error.count("\n") == 1
