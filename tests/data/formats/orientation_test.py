"""The scan's size and the decoder's picture never disagree."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageOps

from bit_jax.data import jpeg
from bit_jax.data.decode import Encoded, check, decode, image_size
from bit_jax.data.formats import tiff
from tests.data.formats import made


def _turned(image, orientation):
  """Turns as Pillow does, which is tested by many."""
  tags = Image.Exif()
  tags[0x112] = orientation
  file = io.BytesIO()
  Image.fromarray(image).save(file, "PNG", exif=tags)
  return np.asarray(ImageOps.exif_transpose(Image.open(file)))


def _blocks():
  """Yields (name, EXIF block, the orientation that it gives)."""
  for order in "<>":
    way = "little" if order == "<" else "big"
    for value in range(1, 9):
      short = struct.pack(order + "HH", value, 0)
      yield f"SHORT {value} {way}", made.exif(short, order=order), value
    long = struct.pack(order + "I", 6)
    for kind, name in ((4, "LONG"), (9, "SLONG"), (13, "IFD")):
      yield f"{name} {way}", made.exif(long, kind, order), 6
    short = struct.pack(order + "HH", 6, 0)
    yield f"SSHORT {way}", made.exif(short, 8, order), 6
    yield f"two {way}", made.exif(short, 3, order, count=2), 6
    for kind, name in ((1, "BYTE"), (6, "SBYTE"), (7, "UNDEFINED")):
      yield f"{name} {way}", made.exif(b"\6\0\0\0", kind, order), 6
    yield f"ASCII {way}", made.exif(b"6\0\0\0", 2, order, 2), 6
    ratio = struct.pack(order + "I", 22 + 4) + bytes(4)
    ratio += struct.pack(order + "II", 6, 1)
    yield f"RATIONAL {way}", made.exif(ratio, 5, order), 6
    many = [
      struct.pack(order + "HHII", 0x9000, 99, 1, 0),  # An unknown type.
      struct.pack(order + "HHII", 0x9001, 2, 1 << 30, 1 << 30),  # Beyond it.
    ]
    yield f"broken tags before {way}", made.exif(short, 3, order, 1, many), 6
    for value in (0, 9, 65535):
      odd = struct.pack(order + "HH", value, 0)
      yield f"value {value} {way}", made.exif(odd, order=order), 1
    yield f"no value {way}", made.exif(short, 3, order, 0), 1
    yield f"cut {way}", made.exif(short, order=order)[:-10], 1
  for name, block in (
    ("empty", b""),
    ("no order", b"XX*\0\0\0\0\x08"),
    ("far table", b"II*\0\xff\xff\xff\xff"),
    ("ones", b"MM\0*" + b"\xff" * 30),
  ):
    yield name, block, 1


BLOCKS = {name: (block, value) for name, block, value in _blocks()}
_APP2, _APP1, _APP13, _COMMENT = 0xE2, 0xE1, 0xED, 0xFE
_XMP = b"http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation='3'/>"


_CMYK = made.encode(Image.fromarray(made.RGB).convert("CMYK"), "JPEG")
_PROGRESSIVE = made.encode(made.RGB, "JPEG", progressive=True)
_JPEG = made.encode(made.RGB, "JPEG", quality=95)
_PNG = made.encode(made.RGB, "PNG")
_CLEAR = made.encode(np.dstack([made.RGB, made.RGB[..., 0]]), "PNG")
_OTHERS = [(_APP1, _XMP), (_APP13, b"Photoshop 3.0\0"), (_COMMENT, b"x")]
_SECOND = (_APP1, b"Exif\0\0" + made.exif(b"\0\x08\0\0"))
_TEXT = made.chunk(b"tEXt", b"k\0" + b"v" * 9000)
# The letters alone are not a chunk.
_NAMED = made.chunk(b"tEXt", b"k\0the eXIf chunk")


def _exif(block):
  return _APP1, b"Exif\0\0" + block


def _chunk(block):
  return made.chunk(b"eXIf", block)


def _jpeg(*segments):
  return made.jpeg_with(segments, _JPEG)


# Images with an EXIF block in each place that is read.
PLACES = {
  "JPEG, late": lambda e: _jpeg(_exif(e)),
  "JPEG, after profiles": lambda e: _jpeg(
    *[(_APP2, bytes(60_000))] * 9, _exif(e)
  ),
  "JPEG, after XMP": lambda e: _jpeg(*_OTHERS, _exif(e)),
  "JPEG, the first of two": lambda e: _jpeg(_exif(e), _SECOND),
  "JPEG, odd name": lambda e: _jpeg((_APP1, b"Exif\0\xff" + e)),
  "JPEG, CMYK": lambda e: made.jpeg_with([_exif(e)], _CMYK),
  "JPEG, progressive": lambda e: made.jpeg_with([_exif(e)], _PROGRESSIVE),
  "JPEG, trailing bytes": lambda e: _jpeg(_exif(e)) + b"\0\0",
  "JPEG, without its end": lambda e: _jpeg(_exif(e))[:-2],
  "JPEG, padded": lambda e: _jpeg(_exif(e)).replace(
    b"\xff\xe1", b"\xff\xff\xff\xe1", 1
  ),
  "PNG, early": lambda e: made.png_with(_chunk(e), data=_PNG),
  "PNG, after text": lambda e: made.png_with(_TEXT + _chunk(e), data=_PNG),
  "PNG, late": lambda e: made.png_with(late=_chunk(e), data=_PNG),
  "PNG, late between text": lambda e: made.png_with(
    late=_NAMED + _chunk(e) + _NAMED, data=_PNG
  ),
  "PNG, transparent": lambda e: made.png_with(late=_chunk(e), data=_CLEAR),
  "WebP": lambda e: made.webp_exif(e or b"x"),
  "WebP, named": lambda e: made.webp_exif(b"Exif\0\0" + e),
}


def _agree(data, orientation, tmp_path):
  image = decode(data, "x")
  plain = (made.HEIGHT, made.WIDTH)
  assert image.shape[:2] == (plain if orientation < 5 else plain[::-1])
  path = tmp_path / "x"
  path.write_bytes(data)
  for encoded in (data, path):
    assert image_size(encoded, "x") == image.shape[:2]
    assert check(encoded, "x").size == image.shape[:2]
  box = (3, 1, 20, 30)
  crop = Encoded(data, "x").crop(lambda height, width: box)
  np.testing.assert_array_equal(crop, image[3:23, 1:31])
  return image


# Most blocks say one of two things; their reading does not depend on the place.
_FEW = [name for name in BLOCKS if "little" not in name or "SHORT" not in name]


@pytest.mark.parametrize("place", PLACES)
def test_every_block_in_every_place(place, tmp_path, capfd):
  upright = decode(PLACES[place](b""), "x")
  turned = {value: _turned(upright, value) for value in range(1, 9)}
  for name in _FEW if place in ("JPEG, late", "PNG, late") else _FEW[::3]:
    block, orientation = BLOCKS[name]
    image = _agree(PLACES[place](block), orientation, tmp_path)
    np.testing.assert_array_equal(image, turned[orientation], err_msg=name)
  assert "libpng" not in capfd.readouterr().err


def test_every_block():
  for name, (block, orientation) in BLOCKS.items():
    assert tiff.exif_orientation(block) == orientation, name
    assert tiff.exif_orientation(b"Exif\0\0" + block) == orientation, name


def test_opencv_turns_nothing_itself(monkeypatch, tmp_path):
  block, _ = BLOCKS["LONG big"]
  data = made.jpeg_with([(_APP1, b"Exif\0\0" + block)])
  with_simplejpeg = decode(data, "x")
  monkeypatch.setattr(jpeg, "simplejpeg", None)
  np.testing.assert_array_equal(_agree(data, 6, tmp_path), with_simplejpeg)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("kind", [3, 4])
def test_tiff(order, big, kind, tmp_path):
  grey = made.RGB[..., 0]
  for orientation in range(1, 9):
    data = made.grey_tiff(grey, order, big, t274=(kind, [orientation]))
    image = _agree(data, orientation, tmp_path)
    want = _turned(np.dstack([grey] * 3), orientation)
    np.testing.assert_array_equal(image, want)


def test_compressed_tiff(tmp_path):
  for orientation in range(1, 9):
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"):
      data = made.encode(
        made.RGB,
        "TIFF",
        compression=compression,
        tiffinfo={274: orientation},
      )
      image = _agree(data, orientation, tmp_path)
      np.testing.assert_array_equal(image, _turned(made.RGB, orientation))
