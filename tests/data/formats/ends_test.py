"""What is cut short, damaged or goes on after its end."""

import os

import cv2
import numpy as np
import pytest
from PIL import Image

from bit_jax.data import decode as decoding
from bit_jax.data import jpeg
from bit_jax.data.decode import Encoded, check, decode
from bit_jax.data.formats import decoders, png
from bit_jax.data.formats.reader import Reader
from bit_jax.errors import InputError
from tests.data.formats import made

_NOISE = np.random.default_rng(0).integers(0, 256, (90, 80, 3), np.uint8)
_MISSING = "its end marker is missing; all pixels are there"
_FILES = {
  "JPEG": made.encode(_NOISE, "JPEG"),
  "progressive JPEG": made.encode(_NOISE, "JPEG", progressive=True),
  "CMYK JPEG": made.encode(Image.fromarray(_NOISE).convert("CMYK"), "JPEG"),
  "PNG": made.encode(_NOISE, "PNG"),
  "WebP": made.encode(_NOISE, "WEBP"),
  "lossless WebP": made.encode(_NOISE, "WEBP", lossless=True),
  "BMP": made.encode(_NOISE, "BMP"),
  "GIF": made.encode(Image.fromarray(_NOISE).quantize(99), "GIF"),
  "TIFF": made.encode(_NOISE, "TIFF"),
  "LZW TIFF": made.encode(_NOISE, "TIFF", compression="tiff_lzw"),
}
# The end marker and nothing else, of the formats that have one.
_END_BYTES = {
  "JPEG": (2, 1),
  "progressive JPEG": (2, 1),
  "CMYK JPEG": (2, 1),
  "PNG": (12, 8, 1),
}


@pytest.fixture(autouse=True)
def _none_told(monkeypatch):
  monkeypatch.setattr(decoding, "_told", decoding._Told())


@pytest.mark.parametrize("kind", _FILES)
def test_a_cut_file_is_found_and_a_whole_one_is_not_decoded(
  kind, tmp_path, monkeypatch, capfd
):
  data, path = _FILES[kind], tmp_path / "x"
  for kept in (0.4, 0.8, 0.97):
    path.write_bytes(data[: int(len(data) * kept)])
    for image in (path, path.read_bytes()):
      with pytest.raises(InputError, match=r"^x: "):
        check(image, "x")
    with pytest.raises(InputError, match=r"^x: "):
      decode(path.read_bytes(), "x")
    with pytest.raises(InputError, match=r"^x: "):
      Encoded(path.read_bytes(), "x").crop(lambda h, w: (0, 0, 9, 9))
  # A download that was given its size before it came. Others cannot tell zeros
  # from pixels.
  if kind.endswith(("JPEG", "PNG", "GIF")):
    with pytest.raises(InputError, match=r"^x: "):
      check(data[: len(data) // 2].ljust(len(data), b"\0"), "x")
  assert capfd.readouterr().err == ""
  monkeypatch.setattr(decoders, "decode", lambda *_: pytest.fail("decoded"))
  path.write_bytes(data)
  assert check(path, "x") == check(data, "x")
  assert check(path, "x").note == ""


@pytest.mark.parametrize("kind", _END_BYTES)
def test_what_misses_only_its_end_marker_is_read(kind, caplog, capfd):
  data = _FILES[kind]
  for missing in _END_BYTES[kind]:
    cut = data[:-missing]
    assert check(cut, "x").note == _MISSING
    np.testing.assert_array_equal(decode(cut, "x"), decode(data, "x"))
    crop = Encoded(cut, "x").crop(lambda h, w: (0, 0, 9, 8))
    np.testing.assert_array_equal(crop, decode(data, "x")[:9, :8])
  # Named once, however often it is decoded.
  assert caplog.messages == [f"x: {_MISSING}"]
  assert "libpng" not in capfd.readouterr().err


@pytest.mark.parametrize("kind", _FILES)
def test_what_follows_the_end_does_not_matter(kind, caplog):
  data = _FILES[kind]
  for more in (b"\n", bytes(99), b"\1" * 70_000):
    np.testing.assert_array_equal(decode(data + more, "x"), decode(data, "x"))
    assert check(data + more, "x").note == ""
  assert caplog.messages == []


def test_the_thumbnail_of_a_cut_jpeg_is_not_its_end(tmp_path):
  exif = made.exif(b"\0\1\0\0") + made.encode(_NOISE[:9, :9], "JPEG")
  data = made.jpeg_with([(0xE1, b"Exif\0\0" + exif)], _FILES["JPEG"])
  path = tmp_path / "x"
  path.write_bytes(data[:-400])
  with pytest.raises(InputError, match=r"^x: the image is truncated"):
    check(path, "x")


def test_without_simplejpeg_a_cut_jpeg_is_still_found(monkeypatch):
  monkeypatch.setattr(jpeg, "simplejpeg", None)
  for kind in ("JPEG", "CMYK JPEG"):
    for missing in (2, 400):
      with pytest.raises(InputError, match=r"^x: the image is truncated"):
        decode(_FILES[kind][:-missing], "x")


@pytest.mark.parametrize("kind", ["JPEG", "progressive JPEG", "CMYK JPEG"])
def test_damage_that_viewers_show_is_named_once(kind, caplog, capfd):
  data = bytearray(_FILES[kind])
  at = data.index(b"\xff\xda") + 1500
  data[at : at + 40] = b"\xff\xd3" * 20
  for _ in range(2):
    assert decode(bytes(data), "cat.jpg").shape == _NOISE.shape
  assert len(caplog.messages) == 1
  assert caplog.messages[0].startswith("cat.jpg: this JPEG is damaged; ")
  # No line of libjpeg, which would name no file.
  assert "JPEG data" not in capfd.readouterr().err


def test_a_broken_chain_of_chunks_hides_no_orientation():
  exif = made.chunk(b"eXIf", made.exif(b"\0\6\0\0"))
  data = bytearray(made.png_with(late=exif))
  data[data.index(b"IDAT") - 3] += 1  # The size of the chunk.
  assert decode(bytes(data), "x").shape[:2] == (made.WIDTH, made.HEIGHT)
  at = data.index(b"IDAT")
  wide = (
    bytes(data[: at - 4]) + made.chunk(b"IDAT", b"") + bytes(data[at - 4 :])
  )
  for broken in (bytes(data), wide):
    assert png.exif(Reader(broken)) == png.pixels(broken).exif != b""


def test_damage_inside_a_png_names_it(monkeypatch, capfd):
  damages = {}
  good = _FILES["PNG"]
  for place in ("IHDR", "IDAT"):
    data = bytearray(good)
    data[good.index(place.encode()) + 9] ^= 1
    damages[place] = bytes(data)
  # libpng prints lines for these.
  monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("not for it"))
  for data in damages.values():
    with pytest.raises(InputError, match=r"^dog\.png: "):
      decode(data, "dog.png")
  assert capfd.readouterr().err == ""


def test_only_the_beginning_and_the_end_are_read(tmp_path, monkeypatch):
  big = tmp_path / "x.png"
  big.write_bytes(made.encode(np.tile(_NOISE, (9, 9, 1)), "PNG"))
  read, wanted = [], decoding.Reader.read

  def count(self, at, size):
    data = wanted(self, at, size)
    read.append(len(data))
    return data

  monkeypatch.setattr(decoding.Reader, "read", count)
  check(big, "x")
  assert sum(read) < 150_000 < os.path.getsize(big)
