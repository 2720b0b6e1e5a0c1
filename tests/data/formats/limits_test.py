"""Images of many pixels, made small by lower limits."""

import struct

import numpy as np
import pytest

from bit_jax.data.decode import Encoded, check, decode, image_size
from bit_jax.data.formats import limits
from bit_jax.errors import InputError
from tests.data.formats import made

_PIXELS = made.HEIGHT * made.WIDTH


@pytest.mark.parametrize(
  ("limit", "factor"), [(_PIXELS, 1), (_PIXELS - 1, 2), (200, 4), (99, 8)]
)
def test_a_large_jpeg_is_decoded_smaller(monkeypatch, tmp_path, limit, factor):
  monkeypatch.setattr(limits, "MAX_PIXELS", limit)
  exif = made.exif(b"\0\6\0\0")
  data = made.jpeg_with([(0xE1, b"Exif\0\0" + exif)])
  image = decode(data, "x")
  want = -(-made.WIDTH // factor), -(-made.HEIGHT // factor)
  assert image.shape[:2] == want
  path = tmp_path / "x"
  path.write_bytes(data)
  assert image_size(path, "x") == check(path, "x").size == want
  crop = Encoded(data, "x").crop(lambda height, width: (1, 0, 3, 2))
  np.testing.assert_array_equal(crop, image[1:4, :2])
  monkeypatch.undo()
  whole = decode(data, "x").astype(float)
  assert abs(image.mean((0, 1)) - whole.mean((0, 1))).max() < 5


@pytest.mark.parametrize(
  "data",
  [
    *(made.encode(made.RGB, k) for k in ("PNG", "BMP", "WEBP", "GIF", "TIFF")),
    made.encode(made.RGB, "JPEG", progressive=True),
  ],
  ids=["png", "bmp", "webp", "gif", "tiff", "progressive"],
)
def test_others_are_refused_with_the_option_that_lifts_the_limit(
  monkeypatch, data
):
  monkeypatch.delenv(limits.OPTION, raising=False)
  want = decode(data, "x")
  monkeypatch.setattr(limits, "MAX_PIXELS", _PIXELS - 1)
  message = (
    rf"^x: its 48 x 40 pixels are more than 1,919; .* {limits.OPTION}=1920 "
  )
  for function in (decode, image_size, check):
    with pytest.raises(InputError, match=message):
      function(data, "x")
  monkeypatch.setenv(limits.OPTION, "1920")
  assert image_size(data, "x") == want.shape[:2]
  np.testing.assert_array_equal(decode(data, "x"), want)


def test_headers_of_absurd_size_take_no_memory(tmp_path):
  header = struct.pack(">IIBBBBB", 200_000, 200_000, 8, 2, 0, 0, 0)
  data = made.png_with()
  data = data[:8] + made.chunk(b"IHDR", header) + data[33:]
  path = tmp_path / "x"
  path.write_bytes(data)
  for function, image in ((decode, data), (image_size, path), (check, path)):
    with pytest.raises(InputError, match="200000 x 200000 pixels"):
      function(image, "x")
  assert image_size(made.encode(made.RGB, "JPEG"), "x") == made.RGB.shape[:2]
