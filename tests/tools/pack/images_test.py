import gzip
import shutil

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from bit_jax.errors import InputError
from bit_jax.tools.pack import __main__ as pack
from bit_jax.tools.pack import images
from tests.tools.pack.sets import load, numbered, records, run, write


def test_images_that_cannot_be_used(src, out):
  bad = src / "cat" / "03.jpg"
  good = bad.read_bytes()
  pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
  png, webp = (cv2.imencode(e, pixels)[1].tobytes() for e in (".png", ".webp"))
  for data, message in (
    (b"", "the file is empty"),
    (b"GIF89a", "the header of this GIF"),
    (b"GIF89a\xff\xd9", "the header of this GIF"),
    (b"\x99" * 40, "not a JPEG, PNG, WebP, BMP, GIF or TIFF"),
    (good[:-40], "truncated"),
    (png[:-200], "truncated"),
    (webp[:-400], "truncated or corrupt"),
    (gzip.compress(good)[:-4], "ended"),
    (gzip.compress(good)[:10] + b"\xff" * 20, "while decompressing"),
    (gzip.compress(good)[:-8] + bytes(8), "CRC"),
  ):
    bad.write_bytes(data)
    with pytest.raises(InputError, match=rf"{bad}: .*{message}.*; --skip_bad"):
      run(src, out, shard_mib=1)
  # Images with trailing bytes or gzip around them are usable.
  for data in (good, good + b"\n", png + b"\0", gzip.compress(good), webp):
    bad.write_bytes(data)
    shutil.rmtree(out / "mine", ignore_errors=True)
    run(src, out, shard_mib=1)
    (stored,) = [image for n, image, _ in records(out) if n == "cat/03.jpg"]
    assert stored == (good if data.startswith(b"\x1f\x8b") else data)


def test_bad_images_can_be_left_out(src, out, capsys):
  (src / "cat" / "03.jpg").write_bytes(b"")
  (src / "dog" / "05.jpg").write_bytes(b"?")
  # With one image per shard, some shards stay empty.
  args = [str(src), "--name=mine", f"--data_dir={out}", "--shard_mib=1e-9"]
  assert pack.main(args) == 1
  assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")
  assert pack.main([*args, "--skip_bad"]) == 0
  skipped = (out / "mine" / "1.0.0" / "skipped.txt").read_text().splitlines()
  assert [line.partition(":")[0] for line in skipped] == [
    f"{src}/cat/03.jpg",
    f"{src}/dog/05.jpg",
  ]
  last = capsys.readouterr().out.splitlines()[-1]
  assert ": 14 images (2 left out, see skipped.txt) of 2 classes" in last
  builder = tfds.builder_from_directory(out / "mine" / "1.0.0")
  assert (
    sorted(builder.info.splits["train"].shard_lengths) == [0] * 2 + [1] * 14
  )
  names = [f"{p.parent.name}/{p.name}" for p in src.rglob("*.jpg")]
  assert {record[0] for record in records(out)} == set(names) - {
    "cat/03.jpg",
    "dog/05.jpg",
  }
  assert len(load(out, "train[3:]")) == 11


def test_a_file_that_cannot_be_read_is_never_left_out(src, out, monkeypatch):
  # The disk failed, not the image: another run may be able to read it.
  read = images.Images.read

  def fail(self, index):
    if self.names[index] == "cat/03.jpg":
      (src / "cat" / "03.jpg").rename(src / "moved")
    return read(self, index)

  monkeypatch.setattr(images.Images, "read", fail)
  with pytest.raises(InputError, match="cat/03.jpg: No such file"):
    run(src, out, skip_bad=True)


def test_a_split_without_images_is_an_error(tmp_path, out):
  src = write(tmp_path / "src", *numbered("train/a", "train/b", "val/a"))
  for path in (src / "val" / "a").iterdir():
    path.write_bytes(b"")
  with pytest.raises(InputError, match="no image of val can be used, such as"):
    run(src, out, skip_bad=True)
  assert not (out / "mine" / "1.0.0").exists()
