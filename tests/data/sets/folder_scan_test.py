"""The check of a folder's files before training."""

import io
import json
import os

import numpy as np
import pytest
from PIL import Image

from bit_jax import progress
from bit_jax.data import decode
from bit_jax.data.formats import limits
from bit_jax.data.sets import folder, folder_scan
from bit_jax.errors import InputError


def _jpeg(size=(12, 10)):
  file = io.BytesIO()
  pixels = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
  Image.fromarray(pixels).save(file, "JPEG")
  return file.getvalue()


_GOOD = _jpeg()


def _make(root, count=6, bad=()):
  """Writes two classes of images, some of which are other bytes."""
  bad = dict(bad)
  for name in [f"{c}/{i}.jpg" for c in "ab" for i in range(count)]:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bad.pop(name, _GOOD))
  assert not bad
  return root


_BAD = {
  "a/1.jpg": b"",
  "a/4.jpg": _GOOD[:-60],
  "b/0.jpg": b"<!doctype html>",
}


@pytest.fixture(autouse=True)
def _none_told(monkeypatch):
  monkeypatch.setattr(decode, "_told", decode._Told())


def _names(loaded):
  return sorted(
    os.path.relpath(example["name"], os.path.commonpath(["/", "/"]))
    for split in loaded.splits.values()
    for example in (split.examples[i] for i in range(len(split)))
  )


def test_all_broken_files_are_named_at_once(tmp_path):
  root = _make(tmp_path / "set", bad=_BAD)
  with pytest.raises(InputError) as error:
    folder.load(str(root))
  message = str(error.value)
  assert message.startswith(f"{root}: 3 of 12 images cannot be used: {root}/a/")
  assert f"{root}/a/1.jpg: the file is empty; " in message
  assert f"{root}/a/4.jpg: the image is truncated or corrupt" in message
  assert f"{root}/b/0.jpg: web page (HTML), not a JPEG" in message
  assert message.endswith(
    "; repair or remove them, or leave them out with "
    "--config.data.skip_bad=true"
  )


def test_many_broken_files_are_counted(tmp_path):
  bad = {f"a/{i}.jpg": b"" for i in range(5)} | {"b/0.jpg": b"", "b/3.jpg": b""}
  root = _make(tmp_path / "set", bad=bad)
  with pytest.raises(InputError, match=r"7 of 12 .*a/4\.jpg.*; and 2 more; "):
    folder.load(str(root))


@pytest.mark.parametrize("cached", [False, True])
def test_bad_files_can_be_left_out(tmp_path, caplog, cached):
  root = _make(tmp_path / "set", bad=_BAD)
  cache_dir = str(tmp_path / "cache") if cached else ""
  loaded = folder.load(str(root), cache_dir=cache_dir, skip_bad=True)
  assert [line.partition(": ")[0] for line in loaded.skipped] == [
    str(root / name) for name in _BAD
  ]
  [message] = caplog.messages
  assert "3 of 12 images have a fault and are left out: " in message
  # As if they were not there, the choice of what is held out as well.
  for name in _BAD:
    (root / name).unlink()
  without = folder.load(str(root))
  assert without.held_out == loaded.held_out
  assert without.skipped == []
  for name, split in without.splits.items():
    assert split.fingerprint == loaded.splits[name].fingerprint
    assert _names(without) == _names(loaded)


def test_verdicts_are_remembered(tmp_path, monkeypatch, caplog):
  bad = {**_BAD, "b/5.jpg": _GOOD[:-2]}
  root, cache = _make(tmp_path / "set", bad=bad), str(tmp_path / "cache")
  checked, check = [], decode.check

  def count(path, name):
    checked.append(os.path.relpath(path, root))
    return check(path, name)

  monkeypatch.setattr(decode, "check", count)
  first = folder.load(str(root), cache_dir=cache, skip_bad=True)
  assert len(checked) == 12
  caplog.clear()
  again = folder.load(str(root), cache_dir=cache, skip_bad=True)
  assert (again.skipped, again.held_out) == (first.skipped, first.held_out)
  assert len(checked) == 12
  # Remembered, they are named all the same.
  assert len(caplog.messages) == 2
  with pytest.raises(InputError, match="3 of 12"):
    folder.load(str(root), cache_dir=cache)
  # Another decoder may read what this one could not.
  monkeypatch.setattr(folder_scan, "_judges", lambda: ["newer"])
  checked.clear()
  folder.load(str(root), cache_dir=cache, skip_bad=True)
  assert sorted(checked) == sorted(_BAD)
  # Repaired.
  for name in _BAD:
    (root / name).write_bytes(_GOOD)
  assert folder.load(str(root), cache_dir=cache).skipped == []


def test_a_cache_of_the_former_format_is_not_used(tmp_path):
  root, cache = _make(tmp_path / "set", bad=_BAD), tmp_path / "cache"
  folder.load(str(root), cache_dir=str(cache), skip_bad=True)
  [file] = cache.iterdir()
  old = {}
  for name in json.loads(file.read_text())["files"]:
    stat = (root / name).stat()
    old[name] = [stat.st_mtime_ns, stat.st_size, 10, 12]
  file.write_text(json.dumps(old))
  with pytest.raises(InputError, match="3 of 12"):
    folder.load(str(root), cache_dir=str(cache))


def test_a_missing_end_marker_is_a_warning(tmp_path, caplog):
  root = _make(tmp_path / "set", bad={"a/2.jpg": _GOOD[:-2]})
  loaded = folder.load(str(root))
  want = (
    f"{root}: 1 of 12 images have a fault and are used nevertheless: "
    f"{root}/a/2.jpg: its end marker is missing; all pixels are there"
  )
  assert caplog.messages == [want]
  for split in loaded.splits.values():
    for i in range(len(split)):
      example = split.examples[i]
      assert decode.decode(example["image"], example["name"]).shape == (
        *(12, 10),
        3,
      )
  assert caplog.messages == [want]  # It is not named again.


def test_a_file_that_cannot_be_read_is_never_left_out(tmp_path, monkeypatch):
  root = _make(tmp_path / "set", bad=_BAD)
  check = decode.check

  def fail(path, name):
    if path.endswith("b/4.jpg"):
      raise OSError(5, "Input/output error")
    return check(path, name)

  monkeypatch.setattr(decode, "check", fail)
  with pytest.raises(InputError, match=r"^\S*b/4.jpg: Input/output error; fil"):
    folder.load(str(root), skip_bad=True)
  with pytest.raises(InputError, match="4 of 12 .* are not left out by"):
    folder.load(str(root))


def test_nothing_is_left_of_a_class_or_split(tmp_path):
  bad = {f"a/{i}.jpg": b"" for i in range(6)}
  root = _make(tmp_path / "one", bad=bad)
  with pytest.raises(InputError, match=r"all images of class 'a' are left out"):
    folder.load(str(root), skip_bad=True)
  _make(tmp_path / "two/train")
  bad |= {f"b/{i}.jpg": b"" for i in range(6)}
  _make(tmp_path / "two/test", bad=bad)
  with pytest.raises(InputError, match=r"two: all images of test are left out"):
    folder.load(str(tmp_path / "two"), skip_bad=True)


def test_a_held_out_image_that_breaks_later(tmp_path):
  root = _make(tmp_path / "set", count=12)
  held_out = folder.load(str(root)).held_out
  (root / held_out[0]).write_bytes(b"")
  again = folder.load(str(root), held_out=held_out, skip_bad=True)
  assert len(again.splits["test"]) == len(held_out) - 1
  # Once repaired, it is held out again and not trained on.
  assert again.held_out == held_out
  for name in held_out:
    (root / name).write_bytes(b"")
  with pytest.raises(InputError, match="none of the images held out is left"):
    folder.load(str(root), held_out=held_out, skip_bad=True)


def test_a_lifted_limit_does_not_stay_in_the_cache(tmp_path, monkeypatch):
  root, cache = _make(tmp_path / "set"), str(tmp_path / "cache")
  Image.new("RGB", (20, 20)).save(root / "a/0.jpg", progressive=True)
  monkeypatch.setattr(limits, "MAX_PIXELS", 399)
  for _ in range(2):
    monkeypatch.delenv(limits.OPTION, raising=False)
    with pytest.raises(InputError, match=r"a/0.jpg: its 20 x 20 pixels"):
      folder.load(str(root), cache_dir=cache)
    monkeypatch.setenv(limits.OPTION, "400")
    folder.load(str(root), cache_dir=cache)


def test_a_long_scan_shows_its_progress(tmp_path, monkeypatch):
  root, shown = _make(tmp_path / "set"), []

  def add(doing, number):
    real(doing, number)
    shown.append(doing.text().split(",")[0])

  real = progress.Activity.add
  monkeypatch.setattr(progress.Activity, "add", add)
  monkeypatch.setattr(folder_scan, "_CHUNK", 4)
  folder.load(str(root))
  assert shown == [f"checking {root}: {n} of 12 files" for n in (4, 8, 12)]
