import io

import cv2
import numpy as np
import pytest
from PIL import Image

from bit_jax.data import jpeg
from bit_jax.data.formats.reader import Reader

_HEIGHT, _WIDTH = 53, 67
_RGB = (
  np.random.default_rng(0)
  .integers(0, 256, (_HEIGHT, _WIDTH, 3))
  .astype(np.uint8)
)


def encode(image=_RGB, **options):
  file = io.BytesIO()
  Image.fromarray(image).save(file, "JPEG", **options)
  return file.getvalue()


def opencv(sampling):
  flags = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
  return cv2.imencode(".jpg", _RGB, flags)[1].tobytes()


_420 = encode(subsampling=2)
KINDS = {
  "444": encode(subsampling=0),
  "422": encode(subsampling=1),
  "420": _420,
  "411": opencv(cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411),
  "440": opencv(cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440),
  "best quality": encode(quality=100, subsampling=2),
  "rgb": encode(keep_rgb=True),
  "grey": encode(_RGB[..., 0]),
  "optimized": encode(optimize=True),
  "restarts": encode(restart_marker_blocks=3),
  "progressive": encode(progressive=True),
  # As the format allows.
  "padded": _420.replace(b"\xff\xc0", b"\xff\xff\xff\xc0"),
  "comment, ICC profile": encode(comment=b"\xff\xda", icc_profile=b"x" * 70000),
}


def by_pillow(data):
  return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_is_exact(kind):
  data = KINDS[kind]
  header = jpeg.read_header(data)
  assert header is not None
  assert (header.height, header.width) == (_HEIGHT, _WIDTH)
  image = jpeg.decode(data, header)
  assert image is not None
  assert image.dtype == np.uint8
  assert image.flags.c_contiguous
  assert image.flags.writeable
  np.testing.assert_array_equal(image, by_pillow(data))


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_rows_are_exact_whatever_their_number(kind, capfd):
  data = KINDS[kind]
  header = jpeg.read_header(data)
  assert header is not None
  whole = by_pillow(data)
  for num_rows in range(1, _HEIGHT + 1):
    rows = jpeg.decode(data, header, num_rows)
    assert rows is not None
    np.testing.assert_array_equal(rows[:num_rows], whole[:num_rows])
  assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_below_is_not_decoded(kind):
  data = KINDS[kind]
  header = jpeg.read_header(data)
  assert header is not None
  part = jpeg.decode(data, header, 8)
  assert part is not None
  assert (len(part) < _HEIGHT) == (kind != "progressive")


@pytest.mark.parametrize("orientation", range(10))
def test_the_header_knows_the_orientation(orientation):
  exif = Image.Exif()
  exif[0x112] = orientation
  header = jpeg.read_header(encode(exif=exif))
  assert header is not None
  assert header.orientation == (orientation if 1 <= orientation <= 8 else 1)


def test_broken_exif_says_nothing():
  data = encode(exif=b"Exif\0\0MM\0*" + b"\xff" * 12)
  header = jpeg.read_header(data)
  assert header is not None
  assert header.orientation == 1


def test_other_jpegs_are_not_ordinary():
  cmyk = io.BytesIO()
  Image.fromarray(_RGB).convert("CMYK").save(cmyk, "JPEG")
  data = KINDS["444"]
  others = [
    cmyk.getvalue(),
    data.replace(b"\xff\xc0", b"\xff\xc9"),  # With arithmetic codes.
    data.replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c"),  # 12 bits.
  ]
  for other in others:
    header = jpeg.read_header(other)
    assert header is not None
    assert not header.is_ordinary
    assert jpeg.decode(other, header) is None


def test_what_has_no_sound_header_has_none():
  data = KINDS["444"]
  frame = data.index(b"\xff\xc0")
  others = [
    data[:2] + bytes(5000) + data[2:],
    # The number of rows comes after them.
    data[: frame + 5] + b"\0\0" + data[frame + 7 :],
    data[:frame] + b"\xff\xd9",
    data[:frame] + data[data.index(b"\xff\xda") :],  # No frame.
    data[:20] + b"\xff\xe5\0\1" + data[20:],  # A segment without its size.
    b"",
    b"\xff\xd8\xff\xd9",
    b"\x89PNG\r\n\x1a\n" + bytes(100),
  ]
  for other in others:
    assert jpeg.read_header(other) is None


def test_the_end_is_found_behind_other_data_and_not_in_a_thumbnail():
  data = encode(comment=b"thumbnail\xff\xd9")
  header = jpeg.read_header(data)
  assert header is not None
  for other, want in (
    (data, True),
    (data + b"\0" * 9, True),
    (data[:-2], False),
    (data[:-1], False),
  ):
    assert jpeg.ends(other, header) == want
    assert jpeg.ends(Reader(other), header) == want
  assert jpeg.ends(data + bytes(1 << 17), header)
  assert not jpeg.ends(Reader(data + bytes(1 << 17)), header)


def test_a_header_cut_anywhere_is_no_error():
  data = KINDS["restarts"]
  for length in range(data.index(b"\xff\xda") + 4):
    jpeg.read_header(data[:length] + b"\xff\xd9")


def test_what_does_not_agree_with_its_header_is_refused():
  data = KINDS["444"]
  header = jpeg.read_header(data)
  assert header is not None
  for wrong in ({"width": _WIDTH - 1}, {"height": _HEIGHT - 1}):
    other = header._replace(**wrong)
    assert jpeg.decode(data, other) is None


def test_damage_is_seen_in_the_whole_and_not_below_the_first_rows():
  data = bytearray(KINDS["420"])
  at = data.index(b"\xff\xda") + (len(data) - data.index(b"\xff\xda")) * 3 // 4
  data[at : at + 40] = bytes(40)
  damaged = bytes(data)
  header = jpeg.read_header(damaged)
  assert header is not None
  assert jpeg.decode(damaged, header) is None
  rows = jpeg.decode(damaged, header, 16)
  assert rows is not None
  np.testing.assert_array_equal(rows[:16], by_pillow(KINDS["420"])[:16])


def test_without_simplejpeg_nothing_is_taken(monkeypatch):
  monkeypatch.setattr(jpeg, "simplejpeg", None)
  header = jpeg.read_header(KINDS["444"])
  assert header is not None
  assert jpeg.decode(KINDS["444"], header) is None
