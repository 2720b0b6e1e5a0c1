import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from bit_jax.data import jpeg
from bit_jax.data.decode import Encoded, check, decode, image_size, median_size
from bit_jax.errors import InputError

_HEIGHT, _WIDTH = 48, 64
_Y, _X = np.mgrid[:_HEIGHT, :_WIDTH]
_RGB = np.stack([_X * 4, _Y * 5, (_X + _Y) * 2], -1).astype(np.uint8)
_GREY = _RGB[..., 0]
_LOSSLESS = {"PNG": {}, "BMP": {}, "WEBP": {"lossless": True, "exact": True}}


def _encode(image, kind, **options):
  file = io.BytesIO()
  if isinstance(image, np.ndarray):
    image = Image.fromarray(image)
  image.save(file, kind, **options)
  return file.getvalue()


def _png(depth, colour_type, row, *chunks):
  """Returns a PNG of one row, of a kind that Pillow cannot write."""
  samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour_type]
  width = len(row) * 8 // (depth * samples)
  header = struct.pack(">IIBBBBB", width, 1, depth, colour_type, 0, 0, 0)
  parts = [
    (b"IHDR", header),
    *chunks,
    (b"IDAT", zlib.compress(b"\0" + row)),
    (b"IEND", b""),
  ]
  return b"\x89PNG\r\n\x1a\n" + b"".join(
    struct.pack(">I", len(data))
    + kind
    + data
    + struct.pack(">I", zlib.crc32(kind + data))
    for kind, data in parts
  )


def _exif(orientation):
  exif = Image.Exif()
  exif[0x112] = orientation
  return exif.tobytes()


@pytest.mark.parametrize("kind", _LOSSLESS)
def test_rgb_is_exact(kind):
  image = decode(_encode(_RGB, kind, **_LOSSLESS[kind]), "x")
  assert image.dtype == np.uint8
  assert image.flags.c_contiguous
  assert image.flags.writeable
  np.testing.assert_array_equal(image, _RGB)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_agrees_with_pillow(kind):
  data = _encode(_RGB, kind)
  want = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
  np.testing.assert_array_equal(decode(data, "x"), want)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP"])
def test_grey_has_three_equal_channels(kind):
  data = _encode(_GREY, kind, **({"quality": 100} if kind == "JPEG" else {}))
  want = np.repeat(_GREY[..., None], 3, -1).astype(int)
  assert abs(decode(data, "x") - want).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
def test_palette(kind):
  image = Image.fromarray(_RGB).quantize(16)
  want = np.asarray(image.convert("RGB"))
  np.testing.assert_array_equal(decode(_encode(image, kind), "x"), want)


def test_one_bit_png():
  data = _encode(Image.fromarray(_GREY > 100), "PNG")
  np.testing.assert_array_equal(
    decode(data, "x")[..., 1], (_GREY > 100) * np.uint8(255)
  )


def test_cmyk_jpeg():
  # Pillow writes the inverted samples that Adobe has made the convention.
  data = _encode(Image.fromarray(_RGB).convert("CMYK"), "JPEG", quality=95)
  assert b"Adobe" in data
  assert abs(decode(data, "x").astype(int) - _RGB).max() <= 2


@pytest.mark.parametrize(
  ("data", "want"),
  [
    (_png(16, 0, b"\x12\x34\xff\xff"), [[18] * 3, [255] * 3]),
    # Trailing bytes send an image to Pillow, which clips this mode.
    (_png(16, 0, b"\x12\x34\xff\xff") + b"x", [[18] * 3, [255] * 3]),
    (_png(16, 2, bytes(range(1, 13))), [[1, 3, 5], [7, 9, 11]]),
    (_png(16, 6, b"\1\0\2\0\3\0\xff\xff"), [[1, 2, 3]]),
    (_png(16, 4, b"\x12\x34\xff\xff\x12\x34\0\0"), [[18] * 3, [255] * 3]),
  ],
  ids=["grey", "grey with trailing byte", "rgb", "rgba", "grey alpha"],
)
def test_16_bit_png_is_scaled(data, want):
  np.testing.assert_array_equal(decode(data, "x"), [want])


def _webp(rgba, **options):
  return _encode(np.array([rgba], np.uint8), "WEBP", lossless=True, **options)


_CLEAR_BLACK = [[10, 20, 30, 255], [0, 0, 0, 0], [0, 0, 0, 51]]
_ON_WHITE = [[10, 20, 30], [255] * 3, [204] * 3]


@pytest.mark.parametrize(
  ("data", "want"),
  [
    (_encode(np.array([_CLEAR_BLACK], np.uint8), "PNG"), _ON_WHITE),
    (_webp(_CLEAR_BLACK, exact=True), _ON_WHITE),
    (_webp(_CLEAR_BLACK, exact=True, exif=_exif(1)), _ON_WHITE),
    (_png(8, 4, b"\x12\xff\0\0"), [[18] * 3, [255] * 3]),
    (
      _png(8, 3, b"\0\1", (b"PLTE", bytes(range(6))), (b"tRNS", b"\xff\0")),
      [[0, 1, 2], [255] * 3],
    ),
    (_png(8, 0, b"\x12\x13", (b"tRNS", b"\0\x12")), [[255] * 3, [19] * 3]),
    (
      _png(8, 2, bytes(range(6)), (b"tRNS", b"\0\0\0\1\0\2")),
      [[255] * 3, [3, 4, 5]],
    ),
  ],
  ids=["png", "webp", "webp exif", "grey", "palette", "grey key", "rgb key"],
)
def test_transparent_images_are_laid_on_white(data, want):
  np.testing.assert_array_equal(decode(data, "x"), [want])


def test_alpha_of_bmp_is_padding():
  data = _encode(np.array([_CLEAR_BLACK], np.uint8), "BMP")
  want = np.array([_CLEAR_BLACK])[..., :3]
  np.testing.assert_array_equal(decode(data, "x"), want)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation(kind, orientation):
  options = _LOSSLESS.get(kind, {}) | {"exif": _exif(orientation)}
  data = _encode(_RGB, kind, **options)
  want = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
  np.testing.assert_array_equal(decode(data, "x"), want)
  assert image_size(data, "x") == want.shape[:2]


def test_broken_exif_is_ignored():
  exif = b"Exif\0\0MM\0*" + b"\xff" * 12
  data = _encode(_RGB, "PNG", exif=exif)
  np.testing.assert_array_equal(decode(data, "x"), _RGB)
  assert image_size(data, "x") == (_HEIGHT, _WIDTH)


def test_animation_gives_first_frame():
  frames = [Image.fromarray(a) for a in (_RGB, 255 - _RGB)]
  data = _encode(
    frames[0],
    "WEBP",
    save_all=True,
    append_images=frames[1:],
    lossless=True,
  )
  np.testing.assert_array_equal(decode(data, "x"), _RGB)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_trailing_bytes_are_ignored(kind):
  data = _encode(_RGB, kind)
  np.testing.assert_array_equal(
    decode(data + b"\0\1\2", "x"), decode(data, "x")
  )


@pytest.mark.parametrize("kept", [0.02, 0.1, 0.3, 0.6, 0.9, 0.97])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
def test_truncated_is_one_clear_error(kind, kept, capfd):
  rng = np.random.default_rng(0)
  noise = rng.integers(0, 256, (96, 96, 3)).astype(np.uint8)
  data = _encode(noise, kind)
  with pytest.raises(InputError, match=r"^cats/1\.jpg: ") as error:
    decode(data[: int(len(data) * kept)], "cats/1.jpg")
  assert "\n" not in str(error.value)
  assert capfd.readouterr().err == ""


def test_truncated_webp_header_at_every_byte():
  for data in (_encode(_RGB, "WEBP"), _webp(_CLEAR_BLACK, exif=_exif(6))):
    for length in range(40):
      with pytest.raises(InputError, match=r"^x: "):
        decode(data[:length], "x")


@pytest.mark.parametrize(
  ("data", "message"),
  [
    (b"", "the file is empty"),
    (b"GIF89a", "the header of this GIF is cut short or corrupt"),
    (b"<html>not found</html>", "web page \\(HTML\\), not a JPEG, PNG, WebP"),
    (b"\x01\xfe\x83\x99" * 9, "not a JPEG, PNG, WebP, BMP, GIF or TIFF image"),
  ],
  ids=["empty", "gif header", "html", "noise"],
)
def test_other_formats_are_refused(data, message):
  for function in (decode, image_size, check):
    with pytest.raises(InputError, match=f"^x: {message}"):
      function(data, "x")


def test_corrupt_body_names_the_image():
  data = bytearray(_encode(_RGB, "PNG"))
  middle = len(data) // 2
  data[middle : middle + 20] = bytes(20)
  with pytest.raises(InputError, match=r"^x: the image is trunc"):
    decode(bytes(data), "x")


def test_image_size_reads_only_the_header(tmp_path):
  data = _encode(_RGB, "PNG")
  path = tmp_path / "a.png"
  path.write_bytes(data[: data.index(b"IDAT") + 20])
  assert image_size(path, "x") == (_HEIGHT, _WIDTH)
  assert image_size(str(path), "x") == (_HEIGHT, _WIDTH)


def test_image_size_of_no_file(tmp_path):
  with pytest.raises(InputError, match=r"^x: No such file"):
    image_size(tmp_path / "none.png", "x")


def test_median_size():
  assert median_size([(9, 9), (1, 1), (2, 3)]) == (2, 3)
  assert median_size([(9, 9), (1, 1)]) == (1, 1)
  assert median_size([(1, 100), (10, 2), (20, 4)]) == (20, 4)


@pytest.mark.parametrize(
  "data",
  [
    _encode(_RGB, "JPEG")[:-100],
    _encode(_RGB, "PNG")[:-4],
    _encode(_RGB, "WEBP", exif=_exif(6)),
    _encode(np.array([_CLEAR_BLACK], np.uint8), "WEBP"),
    _encode(
      Image.fromarray(_RGB),
      "WEBP",
      save_all=True,
      append_images=[Image.fromarray(255 - _RGB)],
    ),
  ],
  ids=["cut jpeg", "cut png", "webp exif", "webp alpha", "animation"],
)
def test_what_some_opencv_gets_wrong_goes_to_pillow(monkeypatch, data):
  # OpenCV 4 shows the lost part of a JPEG in grey and ignores EXIF in WebP.
  monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("not for it"))
  try:
    image = Image.open(io.BytesIO(data))
    image.load()
  except (OSError, SyntaxError):
    with pytest.raises(InputError):
      decode(data, "x")
  else:
    want = ImageOps.exif_transpose(image)
    assert decode(data, "x").shape == (want.height, want.width, 3)


def test_opencv_does_not_log(capfd):
  data = _encode(_RGB, "PNG").replace(b"IHDR", b"IHdR")
  with pytest.raises(InputError):
    decode(data, "x")
  # Only libpng's own line, which cannot be silenced, may be there.
  assert "grfmt" not in capfd.readouterr().err


def test_what_opencv_refuses_is_tried_with_pillow(monkeypatch):
  def refuse(*_):
    raise cv2.error("too large")

  monkeypatch.setattr(cv2, "imdecode", refuse)
  np.testing.assert_array_equal(decode(_encode(_RGB, "PNG"), "x"), _RGB)


def test_a_header_that_is_cut_short_is_named():
  data = bytearray(_encode(_RGB, "PNG"))
  data[11] = 3  # The length of the header chunk, IHDR.
  with pytest.raises(InputError, match=r"^x\.png: the header of this PNG"):
    image_size(bytes(data), "x.png")


def _boxes(height, width):
  """Returns boxes at all edges, boxes of one pixel, and the whole image."""
  for top in (0, 1, 7, height - 1):
    for left in (0, 3, width - 1):
      for bottom in {top + 1, (top + height + 1) // 2, height - 1, height}:
        for right in {left + 1, (left + width + 1) // 2, width}:
          if bottom > top:
            yield top, left, bottom - top, right - left


@pytest.mark.parametrize(
  "data",
  [
    _encode(_RGB, "JPEG", subsampling=0),
    _encode(_RGB[:-1, :-3], "JPEG", subsampling=2),
    _encode(_RGB, "JPEG", progressive=True),
    _encode(_GREY, "JPEG"),
    _encode(Image.fromarray(_RGB).convert("CMYK"), "JPEG"),
    *(_encode(_RGB, "JPEG", exif=_exif(orientation)) for orientation in (1, 6)),
    _encode(_RGB, "JPEG") + b"\0",
    _encode(_RGB, "PNG"),
    _encode(_RGB, "WEBP"),
    _encode(_RGB, "BMP"),
  ],
  ids=[
    *("444", "odd 420", "progressive", "grey", "cmyk", "upright", "rotated"),
    *("trailing byte", "png", "webp", "bmp"),
  ],
)
def test_a_crop_is_that_of_the_whole(data):
  whole = decode(data, "x")
  for box in _boxes(*whole.shape[:2]):
    seen = []

    def choose(height, width, box=box, seen=seen):
      seen.append((height, width))
      return box

    crop = Encoded(data, "x").crop(choose)
    top, left, height, width = box
    want = whole[top : top + height, left : left + width]
    np.testing.assert_array_equal(crop, want)
    assert seen == [whole.shape[:2]]
  np.testing.assert_array_equal(Encoded(data, "x").decode(), whole)


def test_a_crop_of_what_is_no_image_is_one_clear_error():
  data = _encode(_RGB, "JPEG")
  broken = (data[:-100], data[:200] + data[-2:], b"", data[:2] + data[-2:])
  for encoded in broken:
    with pytest.raises(InputError, match=r"^cats/1\.jpg: ") as error:
      Encoded(encoded, "cats/1.jpg").crop(lambda height, width: (0, 0, 9, 9))
    assert "\n" not in str(error.value)


def test_a_crop_that_libjpeg_turbo_refuses_is_cut_from_the_whole(monkeypatch):
  data = _encode(_RGB, "JPEG")
  want = decode(data, "x")[2:5, 7:11]
  monkeypatch.setattr(jpeg, "decode", lambda *_: None)
  crop = Encoded(data, "x").crop(lambda height, width: (2, 7, 3, 4))
  np.testing.assert_array_equal(crop, want)


def test_a_jpeg_whose_parts_disagree_on_its_size_is_corrupt(monkeypatch):
  data = _encode(_RGB, "JPEG")
  header = jpeg.read_header(data)
  assert header is not None
  wrong = header._replace(height=99)
  monkeypatch.setattr(jpeg, "read_header", lambda _: wrong)
  monkeypatch.setattr(jpeg, "decode", lambda *_: None)
  with pytest.raises(InputError, match=r"^x: .* corrupt .* 64 x 99 pixels"):
    Encoded(data, "x").crop(lambda height, width: (90, 0, 9, 9))


def test_plain_jpegs_are_not_for_opencv(monkeypatch):
  data = _encode(_RGB, "JPEG")
  monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("not for it"))
  decode(data, "x")
  Encoded(data, "x").crop(lambda height, width: (2, 7, 3, 4))


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_opencv_decodes_to_the_same_pixels(monkeypatch, subsampling):
  data = _encode(_RGB, "JPEG", subsampling=subsampling)
  fast = decode(data, "x")
  monkeypatch.setattr(jpeg, "simplejpeg", None)
  np.testing.assert_array_equal(decode(data, "x"), fast)
