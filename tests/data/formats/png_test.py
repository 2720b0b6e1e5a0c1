"""Metadata makes no PNG unreadable, and nothing prints a line of its own."""

import zlib

import cv2
import numpy as np
import pytest

from bit_jax.data.decode import check, decode, image_size
from bit_jax.data.formats import png
from tests.data.formats import made

_LONG = zlib.compress(b"k" * 2_000_000)
_HUGE = zlib.compress(bytes(99_000_000), 1)
CHUNKS = {
  "zTXt of 2 MB": made.chunk(b"zTXt", b"k\0\0" + _LONG),
  "zTXt of 99 MB": made.chunk(b"zTXt", b"k\0\0" + _HUGE),
  "iTXt of 2 MB": made.chunk(b"iTXt", b"k\0\1\0\0\0" + _LONG),
  "tEXt of 9 MB": made.chunk(b"tEXt", b"k\0" + b"v" * 9_000_000),
  "many texts": made.chunk(b"tEXt", b"k\0" + b"v" * 9000) * 900,
  "iCCP of 2 MB": made.chunk(b"iCCP", b"k\0\0" + _LONG),
  "iCCP that is none": made.chunk(b"iCCP", b"k\0\0" + zlib.compress(b"x")),
  "iCCP that is cut": made.chunk(b"iCCP", b"k\0\0" + _LONG[:99]),
  "broken text": made.chunk(b"zTXt", b"k\0\0" + b"\xff" * 30),
  "wrong checksum": made.chunk(b"tEXt", b"k\0v")[:-4] + b"nope",
  "gAMA of zero": made.chunk(b"gAMA", bytes(4)),
  "wrong sizes": made.chunk(b"tIME", b"") + made.chunk(b"pHYs", b"x"),
  "two gAMA": made.chunk(b"gAMA", b"\0\0\xb1\x8f") * 2,
  "eXIf that is none": made.chunk(b"eXIf", b"x"),
  "palette of a colour image": made.chunk(b"PLTE", b"x" * 3),
  "broken animation": made.chunk(b"acTL", b"x"),
}


@pytest.mark.parametrize("kind", CHUNKS)
def test_metadata_does_not_matter(kind, tmp_path, capfd):
  path = tmp_path / "x"
  clear = made.encode(np.dstack([made.RGB, made.RGB[..., 0]]), "PNG")
  on_white = decode(clear, "x")
  for data, want in (
    (made.png_with(CHUNKS[kind]), made.RGB),
    (made.png_with(late=CHUNKS[kind]), made.RGB),
    (made.png_with(CHUNKS[kind], data=clear), on_white),
  ):
    np.testing.assert_array_equal(decode(data, "x"), want)
    path.write_bytes(data)
    for image in (data, path):
      assert image_size(image, "x") == made.RGB.shape[:2]
      assert check(image, "x").note == ""
  assert capfd.readouterr().err == ""


def test_an_ordinary_png_is_decoded_by_opencv_as_it_is(monkeypatch):
  data, seen = made.encode(made.RGB, "PNG"), []
  decoded = cv2.imdecode

  def imdecode(array, flags):
    seen.append(array.tobytes())
    return decoded(array, flags)

  monkeypatch.setattr(cv2, "imdecode", imdecode)
  decode(data, "x")
  assert seen == [data]
  assert png.pixels(data).data is data


def test_a_png_of_iphone_apps_is_named():
  data = made.png_with()
  data = data[:8] + made.chunk(b"CgBI", bytes(4)) + data[8:]
  with pytest.raises(ValueError, match=r"^x: a PNG in the form of iPhone apps"):
    check(data, "x")
