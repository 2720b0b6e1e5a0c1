import struct
import tarfile
import zipfile

import pytest

from bit_jax.data.decode import check, decode, image_size
from bit_jax.errors import InputError
from tests.data.formats import made

_IMAGE = "not a JPEG, PNG, WebP, BMP, GIF or TIFF image"
_CONVERT = "convert it to JPEG or PNG"


def _boxes(*brands):
  body = brands[0] + bytes(4) + b"".join(brands[1:])
  return struct.pack(">I", 8 + len(body)) + b"ftyp" + body + bytes(99)


KINDS = {
  "HEIC": (_boxes(b"heic", b"mif1"), _CONVERT),
  "HEIC 2": (_boxes(b"mif1", b"miaf", b"heic"), _CONVERT),
  "AVIF": (_boxes(b"avif", b"mif1"), _CONVERT),
  "AVIF 2": (_boxes(b"mif1", b"avif"), _CONVERT),
  "camera raw file": (_boxes(b"crx ", b"isom"), _CONVERT),
  "camera raw file 2": (b"II*\0\x10\0\0\0CR\2\0" + bytes(20), _CONVERT),
  "camera raw file 3": (b"FUJIFILMCCD-RAW 0201" + bytes(20), _CONVERT),
  "camera raw file 4": (
    made.grey_tiff(made.RGB[..., 0], t50706=(1, [1, 4, 0, 0])),
    _CONVERT,
  ),
  "camera raw file 5": (
    made.grey_tiff(made.RGB[..., 0], t254=(4, [1]), t330=(4, [8])),
    _CONVERT,
  ),
  "video": (_boxes(b"isom", b"mp41"), "take out frames"),
  "JPEG XL": (b"\xff\x0a" + bytes(40), _CONVERT),
  "JPEG XL 2": (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40), _CONVERT),
  "JPEG 2000": (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40), _CONVERT),
  "Photoshop PSD": (b"8BPS\0\1" + bytes(40), _CONVERT),
  "PDF": (b"%PDF-1.7\n%\xe2\xe3", _CONVERT),
  "SVG": (b"<?xml version='1.0'?>\n<!-- x -->\n<svg xmlns='x'/>", _CONVERT),
  "SVG 2": (b"<svg xmlns='x'/>", _CONVERT),
  "web page (HTML)": (b"\n<!DOCTYPE html>\n<html>", "download it again"),
  "web page (HTML) 2": (
    b"\xef\xbb\xbf<!-- x --><HTML><svg/>",
    "download it again",
  ),
  "text file": ("404: Ünbekannt".encode(), "download it again"),
  "text file 2": (b'{"error": "no such key"}', "download it again"),
  "XML file": (b"<?xml version='1.0'?><Error/>", "download it again"),
  "file of zeros": (bytes(5000), "download it again"),
  "pointer of git-lfs": (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    "run git lfs pull",
  ),
  "pointer of git-annex": (b"/annex/objects/MD5E-s9--0.jpg\n", "git annex get"),
  "zip archive": (b"PK\3\4" + bytes(40), "unpack it"),
  "gzip file": (b"\x1f\x8b\x08" + bytes(40), "unpack it"),
  "macOS's notes on a file (AppleDouble)": (
    b"\0\5\x16\7" + bytes(40),
    "remove it",
  ),
  "NumPy array": (b"\x93NUMPY\1\0" + bytes(40), _CONVERT),
  "pickle": (b"\x80\4\x95" + bytes(40), _CONVERT),
  "DICOM": (bytes(128) + b"DICM" + b"\2\0", _CONVERT),
  "PNM": (b"P6\n2 2\n255\n" + b"\xfe" * 12, _CONVERT),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_image_is_named(kind, tmp_path):
  data, advice = KINDS[kind]
  path = tmp_path / "x.jpg"
  path.write_bytes(data)
  what = kind.rstrip(" 2345") if kind != "JPEG 2000" else kind
  want = f"x.jpg: {what}, {_IMAGE}: "
  for function, image in (
    *((f, data) for f in (decode, image_size, check)),
    *((f, path) for f in (image_size, check)),
  ):
    with pytest.raises(InputError) as error:
      function(image, "x.jpg")
    assert str(error.value).startswith(want)
    assert advice in str(error.value)


def test_archives(tmp_path):
  (tmp_path / "a.txt").write_text("x")
  with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
    file.write(tmp_path / "a.txt", "a.txt")
  with tarfile.open(tmp_path / "x.tar", "w") as file:
    file.add(tmp_path / "a.txt", "a.txt")
  for kind in ("zip", "tar"):
    with pytest.raises(InputError, match=rf"^x: {kind} archive, not a JPEG"):
      check(tmp_path / f"x.{kind}", "x")


def test_nothing_is_named_where_nothing_is_known():
  for data in (b"BM a text", b"\x01\xfe\x83\x99" * 9):
    with pytest.raises(InputError, match=r"^x: "):
      check(data, "x")
  with pytest.raises(InputError, match=f"^x: {_IMAGE}$"):
    check(b"\x01\xfe\x83\x99" * 9, "x")
  with pytest.raises(InputError, match="^x: the file is empty$"):
    check(b"", "x")
