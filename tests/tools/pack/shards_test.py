import itertools
import threading
import time
import types

import numpy as np
import pytest
import tensorflow_datasets as tfds

from bit_jax.data import datasets
from bit_jax.errors import InputError
from bit_jax.tools.pack import __main__ as pack
from bit_jax.tools.pack import images, shards
from tests.tools.pack.sets import load, numbered, records, run, tree, write


def test_slices_are_random_subsets_and_always_the_same(tmp_path, out):
  names = numbered("ant", "bee", "cat", count=60, suffix=".png")
  src = write(tmp_path / "src", *names)
  run(src, out / "1", shard_mib=256)
  packed = [record[0] for record in records(out / "1")]
  assert sorted(packed) == names
  half = datasets.open_dataset("mine", data_dir=str(out / "1"))
  labels = half.load("train[:50%]").read_labels()
  counts = np.bincount(labels, minlength=3)
  assert counts.sum() == 90
  assert counts.min() >= 20
  # An additional image does not change the order of the others.
  write(src, "bee/new.png")
  run(src, out / "2")
  again = [record[0] for record in records(out / "2")]
  again.remove("bee/new.png")
  assert again == packed


def test_shards_have_the_size_asked_for(tmp_path, out):
  src = write(tmp_path / "src", *numbered("ant", "bee", count=50))
  num_bytes = sum(p.stat().st_size for p in src.rglob("*.jpg"))
  run(src, out, shard_mib=num_bytes / 5 / 2**20)
  builder = tfds.builder_from_directory(out / "mine" / "1.0.0")
  assert builder.info.splits["train"].shard_lengths == [20] * 5
  files = sorted(p.name for p in (out / "mine" / "1.0.0").glob("*record*"))
  assert files[-1] == "mine-train.array_record-00004-of-00005"


class Stop:
  """Raises KeyboardInterrupt after a number of images, as Ctrl-C would."""

  def __init__(self, monkeypatch, after):
    self.left = after
    read = images.Images.read

    def count(images, index):
      self.left -= 1
      if self.left < 0:
        raise KeyboardInterrupt
      return read(images, index)

    monkeypatch.setattr(images.Images, "read", count)
    monkeypatch.setattr(shards, "_NUM_THREADS", 1)


def test_goes_on_after_the_last_finished_shard(src, out, monkeypatch, capsys):
  mib = 1e-9  # A shard an image.
  run(src, out / "whole", shard_mib=mib)
  args = [str(src), "--name=mine", f"--data_dir={out}", f"--shard_mib={mib}"]
  with monkeypatch.context() as patch:
    Stop(patch, 5)
    assert pack.main(args) == 130
  assert "Traceback" not in capsys.readouterr().err
  unfinished = out / "mine" / "incomplete.1.0.0"
  finished = {
    p.name: p.stat().st_mtime_ns for p in unfinished.glob("*-of-00016")
  }
  assert len(finished) == 5
  with pytest.raises(InputError, match="unknown dataset 'mine'"):
    load(out)

  with monkeypatch.context() as patch:
    rest = Stop(patch, 16)
    assert pack.main(args) == 0
  assert rest.left == 5
  assert records(out) == records(out / "whole")
  assert not list((out / "mine" / "1.0.0").glob("*.part"))
  for name, mtime in finished.items():
    assert (out / "mine" / "1.0.0" / name).stat().st_mtime_ns == mtime


def test_does_not_go_on_with_something_else(src, out, monkeypatch, tmp_path):
  with monkeypatch.context() as patch:
    Stop(patch, 0)
    with pytest.raises(KeyboardInterrupt):
      run(src, out)
  before = tree(out)
  names = tmp_path / "names.txt"

  def check(**kwargs):
    with pytest.raises(InputError, match="0.0 is an unfinished pack of other"):
      run(src, out, **kwargs)

  check(shard_mib=0.002)
  names.write_text("dog\ncat\n")
  check(class_list=str(names))
  names.write_text("cat\ndog\nant\n")
  check(class_list=str(names), allow_missing=True)
  (src / "cat" / "07.jpg").rename(src / "cat" / "08.jpg")
  check()
  (src / "cat" / "08.jpg").rename(src / "dog" / "08.jpg")
  check()
  assert tree(out) == before
  (out / "mine" / "incomplete.1.0.0" / "pack.json").write_text("{")
  with pytest.raises(InputError, match="pack.json: cannot be read .*; remove"):
    run(src, out)


def test_an_error_stops_all_threads(src, out, monkeypatch):
  reads, second = itertools.count(), threading.Event()

  def read(self, index):
    # The state file must exist before the first shard is finished, as the
    # process may be killed.
    assert (out / "mine" / "incomplete.1.0.0" / "pack.json").exists()
    if next(reads):
      second.set()
      time.sleep(0.1)
      return b""
    second.wait(10)
    raise InputError("the first")

  monkeypatch.setattr(images.Images, "read", read)
  monkeypatch.setattr(shards, "checked", lambda data, name: data)
  with pytest.raises(InputError, match="the first"):
    run(src, out, shard_mib=0.005)
  assert 2 <= next(reads) < 8


def test_files_that_cannot_be_written(src, out, monkeypatch):
  shard = "mine-train.array_record-00000-of-00001"
  (out / "mine" / "incomplete.1.0.0" / f"{shard}.part").mkdir(parents=True)
  with pytest.raises(InputError, match=f"{shard}.part: cannot be written"):
    run(src, out, shard_mib=1)
  usage = types.SimpleNamespace(free=10)
  monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
  with pytest.raises(
    InputError, match="needs about .* more, but 10 B are free"
  ):
    run(src, out / "2")
  assert not (out / "2").exists()


def test_tells_how_far_it_is(src, out, ended):
  run(src, out)
  assert any(": 16 of 16 images, " in text for text in ended)
