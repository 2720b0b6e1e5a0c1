"""The right pixels of formats that need more than one library call."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from bit_jax.data.decode import check, decode, image_size
from bit_jax.errors import InputError
from tests.data.formats import made

_RGB, _GREY = made.RGB, made.RGB[..., 0]
_8888 = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
_5551 = (0x7C00, 0x3E0, 0x1F, 0x8000)


def _packed(alpha):
  r, g, b = np.moveaxis(_RGB.astype(np.uint32), -1, 0)
  return r << 16 | g << 8 | b | (np.asarray(alpha, np.uint32) << 24)


@pytest.mark.parametrize("header", [56, 108, 124])
@pytest.mark.parametrize("top_down", [False, True])
def test_bmp_without_any_alpha_is_opaque(header, top_down):
  data = made.bmp(_packed(0), _8888, header, top_down)
  np.testing.assert_array_equal(decode(data, "x"), _RGB)
  assert image_size(data, "x") == _RGB.shape[:2]


def test_bmp_with_some_alpha_is_laid_on_white():
  alpha = np.zeros(_GREY.shape, int)
  alpha[0, 0], alpha[0, 1] = 255, 51
  image = decode(made.bmp(_packed(alpha), _8888), "x")
  np.testing.assert_array_equal(image[0, 0], _RGB[0, 0])
  assert (image[1:] == 255).all()
  want = 204 + _RGB[0, 1].astype(int) // 5
  assert abs(image[0, 1].astype(int) - want).max() <= 1


def test_16_bit_bmp():
  five = _RGB.astype(np.uint16) >> 3
  pixels = five[..., 0] << 10 | five[..., 1] << 5 | five[..., 2]
  want = five.astype(int) * 255 // 31
  # Without an alpha mask, without any alpha, and opaque: the same.
  for alpha, masks in ((0, (*_5551[:3], 0)), (0, _5551), (0x8000, _5551)):
    data = made.bmp(pixels | alpha, masks, bits=16)
    np.testing.assert_array_equal(decode(data, "x"), want)
  pixels[0] |= 0x8000
  image = decode(made.bmp(pixels, _5551, bits=16), "x")
  np.testing.assert_array_equal(image[0], want[0])
  assert (image[1:] == 255).all()


def test_bmp_of_565_and_555_is_as_pillow_reads_it():
  pixels = np.arange(_GREY.size).reshape(_GREY.shape) * 34
  for masks in ((0xF800, 0x7E0, 0x1F), (0x7C00, 0x3E0, 0x1F)):
    data = made.bmp(pixels & 0xFFFF, masks, 40, bits=16)
    np.testing.assert_array_equal(decode(data, "x"), made.pillow(data))


def test_a_transparent_image_of_another_format_is_white():
  # There, alpha means what it says: viewers show nothing.
  clear = np.dstack([_RGB, np.zeros_like(_GREY)])
  for kind, options in (
    *(("PNG", {}), ("TIFF", {})),
    ("WEBP", {"lossless": True, "exact": True}),
  ):
    assert (decode(made.encode(clear, kind, **options), "x") == 255).all()


def _gif(size, frame, transparent=None, trailer=b";"):
  """Returns a GIF of two grey levels, with a frame of ones in a canvas."""
  width, height = size
  left, top, columns, rows = frame
  image = Image.new("P", (columns, rows), 1)
  image.putpalette([50, 60, 70, 10, 20, 30])
  data = made.encode(image, "GIF", optimize=False)
  at = data.index(b",\0\0\0\0")
  head = b"GIF89a" + struct.pack("<HH", width, height) + data[10:13]
  palette = data[13 : 13 + 3 * 2 ** ((data[10] & 7) + 1)]
  control = b""
  if transparent is not None:
    control = b"!\xf9\4\1\0\0" + bytes([transparent]) + b"\0"
  place = b"," + struct.pack("<HHHH", left, top, columns, rows)
  return head + palette + control + place + data[at + 9 : -1] + trailer


@pytest.mark.parametrize("transparent", [None, 0])
def test_gif_smaller_than_its_canvas(transparent):
  data = _gif((6, 5), (1, 2, 3, 2), transparent)
  want = np.full((5, 6, 3), 255)
  want[2:4, 1:4] = 10, 20, 30
  np.testing.assert_array_equal(decode(data, "x"), want)
  assert image_size(data, "x") == (5, 6)


def test_gif_that_is_transparent():
  data = _gif((3, 2), (0, 0, 3, 2), 1)
  assert (decode(data, "x") == 255).all()


def test_gif_larger_than_its_canvas():
  for size in ((0, 0), (2, 1)):
    data = _gif(size, (0, 0, 3, 2))
    assert decode(data, "x").shape == (2, 3, 3)
    assert image_size(data, "x") == (2, 3)


@pytest.mark.parametrize("options", [{}, {"interlace": True}])
def test_gif_gives_its_first_frame_under_any_name(options, tmp_path):
  first, second = (Image.fromarray(a).quantize(64) for a in (_RGB, 255 - _RGB))
  want = np.asarray(first.convert("RGB"))
  data = made.encode(
    first, "GIF", save_all=True, append_images=[second], **options
  )
  np.testing.assert_array_equal(decode(data, "x.jpg"), want)
  path = tmp_path / "x.jpg"
  path.write_bytes(data)
  assert check(path, "x").size == want.shape[:2]
  grey = made.encode(_GREY, "GIF")
  np.testing.assert_array_equal(decode(grey, "x"), np.dstack([_GREY] * 3))


def test_cut_gif():
  image = np.random.default_rng(0).integers(0, 256, (60, 60), np.uint8)
  data = made.encode(image, "GIF")
  for kept in (0.2, 0.5, 0.9):
    with pytest.raises(InputError, match=r"^x: "):
      decode(data[: int(len(data) * kept)], "x")
    with pytest.raises(InputError, match=r"^x: "):
      check(data[: int(len(data) * kept)], "x")
  # The end marker does not matter to the first frame.
  assert check(data[:-1], "x").size == check(data + b"\0", "x").size == (60, 60)


def test_gif_of_tfds_bytes_in_a_crop():
  from bit_jax.data.decode import Encoded

  data = made.encode(Image.fromarray(_RGB).quantize(64), "GIF")
  crop = Encoded(data, "x").crop(lambda height, width: (1, 2, 3, 4))
  np.testing.assert_array_equal(crop, decode(data, "x")[1:4, 2:6])


def _tiff_kinds():
  image = Image.fromarray(_RGB)
  yield "rgb", made.encode(image, "TIFF"), _RGB, 0
  for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits"):
    yield name, made.encode(image, "TIFF", compression=name), _RGB, 0
  yield "jpeg", made.encode(image, "TIFF", compression="jpeg"), _RGB, 12
  cmyk = image.convert("CMYK")
  yield "cmyk", made.encode(cmyk, "TIFF"), _RGB, 0
  yield "cmyk lzw", made.encode(cmyk, "TIFF", compression="tiff_lzw"), _RGB, 0
  palette = image.quantize(32)
  want = np.asarray(palette.convert("RGB"))
  yield "palette", made.encode(palette, "TIFF"), want, 0
  grey = np.dstack([_GREY] * 3)
  yield "grey", made.encode(_GREY, "TIFF"), grey, 0
  bilevel = np.dstack([(_GREY > 99) * 255] * 3)
  one = Image.fromarray(_GREY > 99)
  yield "1 bit", made.encode(one, "TIFF"), bilevel, 0
  yield "fax", made.encode(one, "TIFF", compression="group4"), bilevel, 0
  pages = made.encode(
    image, "TIFF", save_all=True, append_images=[Image.fromarray(255 - _RGB)]
  )
  yield "pages", pages, _RGB, 0
  deep = _GREY.astype(int) << 8 | 0x7F
  for order in "<>":
    for big in (False, True):
      name = f"{order} {'big' if big else ''}"
      yield f"8 bit {name}", made.grey_tiff(_GREY, order, big), grey, 0
      data = made.grey_tiff(deep, order, big, bits=16)
      yield f"16 bit {name}", data, grey, 0
      data = made.grey_tiff(0xFFFF - deep, order, big, 16, t262=(3, [0]))
      yield f"16 bit, white is zero {name}", data, grey, 0
      data = made.grey_tiff(255 - _GREY, order, big, t262=(3, [0]))
      yield f"white is zero {name}", data, grey, 0
    tags = {
      **{256: (4, [made.WIDTH]), 257: (4, [made.HEIGHT])},
      **{258: (3, [16] * 3), 259: (3, [1]), 262: (3, [2]), 277: (3, [3])},
    }
    strip = (_RGB.astype(int) << 8 | 0x7F).astype(order + "u2").tobytes()
    yield f"16 bit rgb {order}", made.tiff(tags, strip, order), _RGB, 0
    # A fourth sample of no stated meaning is not alpha.
    tags |= {258: (3, [8] * 4), 277: (3, [4]), 338: (3, [0])}
    strip = np.dstack([_RGB, np.zeros_like(_GREY)]).tobytes()
    yield f"fourth sample {order}", made.tiff(tags, strip, order), _RGB, 0


_TIFFS = {name: values for name, *values in _tiff_kinds()}


@pytest.mark.parametrize("kind", _TIFFS)
def test_tiff(kind, tmp_path, capfd):
  data, want, tolerance = _TIFFS[kind]
  image = decode(data, "x.jpg")
  assert abs(image.astype(int) - want).max() <= tolerance
  path = tmp_path / "x.png"
  path.write_bytes(data)
  assert check(path, "x").size == image.shape[:2]
  assert check(path, "x").note == ""
  # A third of it is not an image, and the end of it is missed.
  for kept in (len(data) // 3, len(data) - 300 if len(data) > 3000 else 0):
    if kind != "pages" or kept < len(data) // 2:
      for function in (check, decode):
        with pytest.raises(InputError, match=r"^x: "):
          function(data[:kept], "x")
  assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
  ("tags", "bits", "what"),
  [
    ({}, 32, "samples of 32 bits"),
    ({"t339": (3, [3])}, 32, "floating-point samples of 32 bits"),
    ({"t339": (3, [2])}, 16, "signed samples of 16 bits"),
    ({"t258": (3, [12])}, 16, "samples of 12 bits"),
  ],
)
def test_other_depths_of_tiff_are_named(tags, bits, what):
  data = made.grey_tiff(_GREY.astype(int), bits=bits, **tags)
  for function in (decode, image_size, check):
    with pytest.raises(InputError, match=f"^x: a TIFF with {what}; expected"):
      function(data, "x")


def test_16_bit_grey_png_with_a_transparent_value():
  deep = np.array([[0x1234, 0x1235]], np.uint16)
  file = io.BytesIO()
  Image.fromarray(deep).save(file, "PNG")
  key = made.chunk(b"tRNS", b"\x12\x34")
  data = made.png_with(key, data=file.getvalue())
  np.testing.assert_array_equal(decode(data, "x"), [[[255] * 3, [18] * 3]])
