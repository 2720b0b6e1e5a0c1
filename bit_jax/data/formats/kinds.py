"""Recognizes image formats by their first bytes; names what cannot be read."""

import re

from bit_jax.data.formats import tiff

READ = "JPEG, PNG, WebP, BMP, GIF or TIFF"
# Bytes of a file that tell what it is.
START = 1024
_CONVERT = "convert it to JPEG or PNG"
_DOWNLOAD = "download it again"
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)
# (what, what to do) by the first bytes; of two that fit, the first.
_STARTS = {
  b"\xff\x0a": ("JPEG XL", _CONVERT),
  b"\0\0\0\x0cJXL ": ("JPEG XL", _CONVERT),
  b"\0\0\0\x0cjP": ("JPEG 2000", _CONVERT),
  b"\xff\x4f\xff\x51": ("JPEG 2000", _CONVERT),
  b"II\xbc": ("JPEG XR", _CONVERT),
  b"\x8aMNG": ("MNG", _CONVERT),
  b"\x8bJNG": ("JNG", _CONVERT),
  b"8BPS": ("Photoshop PSD", _CONVERT),
  b"gimp xcf": ("GIMP XCF", _CONVERT),
  b"\0\0\1\0": ("Windows icon", _CONVERT),
  # The same bytes may begin a TGA, which has no first bytes of its own.
  b"\0\0\2\0": ("Windows cursor or TGA", _CONVERT),
  b"icns": ("macOS icon", _CONVERT),
  b"DDS ": ("DDS texture", _CONVERT),
  b"v/1\x01": ("OpenEXR", _CONVERT),
  b"#?RADIANCE": ("Radiance HDR", _CONVERT),
  b"#?RGBE": ("Radiance HDR", _CONVERT),
  b"SIMPLE  =": ("FITS", _CONVERT),
  b"qoif": ("QOI", _CONVERT),
  b"BPG\xfb": ("BPG", _CONVERT),
  b"FLIF": ("FLIF", _CONVERT),
  b"AT&TFORM": ("DjVu", _CONVERT),
  b"\xd7\xcd\xc6\x9a": ("Windows metafile", _CONVERT),
  b"IIU\0": ("camera raw file", _CONVERT),
  b"IIRO": ("camera raw file", _CONVERT),
  b"IIRS": ("camera raw file", _CONVERT),
  b"MMOR": ("camera raw file", _CONVERT),
  b"FUJIFILMCCD-RAW": ("camera raw file", _CONVERT),
  b"FOVb": ("camera raw file", _CONVERT),
  b"\0MRM": ("camera raw file", _CONVERT),
  b"%PDF": ("PDF", _CONVERT),
  b"%!PS": ("PostScript file", _CONVERT),
  b"RIFF": ("video or sound file", "take out frames as JPEG or PNG"),
  b"\x1aE\xdf\xa3": ("video", "take out frames as JPEG or PNG"),
  b"version https://git-lfs": ("pointer of git-lfs", "run git lfs pull"),
  b"version https://hawser": ("pointer of git-lfs", "run git lfs pull"),
  b"/annex/objects/": ("pointer of git-annex", "run git annex get"),
  b"PK\3\4": ("zip archive", "unpack it"),
  b"PK\5\6": ("zip archive", "unpack it"),
  b"\x1f\x8b": ("gzip file", "unpack it"),
  b"BZh": ("bzip2 file", "unpack it"),
  b"\xfd7zXZ": ("xz file", "unpack it"),
  b"(\xb5/\xfd": ("zstd file", "unpack it"),
  b"7z\xbc\xaf\x27\x1c": ("7z archive", "unpack it"),
  b"Rar!\x1a": ("rar archive", "unpack it"),
  b"\x93NUMPY": ("NumPy array", _CONVERT),
  b"\x89HDF": ("HDF5 file", _CONVERT),
  b"\0\5\x16\7": ("macOS's notes on a file (AppleDouble)", "remove it"),
  b"\0\5\x16\0": ("macOS's notes on a file (AppleSingle)", "remove it"),
  b"L\0\0\0\1\x14\2\0": ("Windows shortcut", "copy the file itself"),
  b"\xd0\xcf\x11\xe0": ("Office document or Thumbs.db", "remove it"),
}
_PICKLE = re.compile(rb"\x80[\2-\5]")
_PNM = re.compile(rb"P[1-7Ff]\s")
_HTML = re.compile(
  rb"\s*(<!--.{0,500}?-->\s*)?<(!doctype\s+html|html|head|body|script|title|p\b"
  rb"|meta|h1)",
  re.IGNORECASE | re.DOTALL,
)
_SVG = re.compile(rb"\s*<.*?svg", re.IGNORECASE | re.DOTALL)
_HEIC = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
_AVIF = (b"avif", b"avis")


def kind_of(start: bytes) -> str:
  """Returns JPEG, PNG, WEBP, BMP, GIF or TIFF; '' for anything else.

  Args:
    start: The first bytes of a file, START of them or all.
  """
  if start.startswith(b"\xff\xd8"):
    return "JPEG"
  if start.startswith(b"\x89PNG\r\n\x1a\n"):
    return "PNG"
  if start.startswith(b"RIFF") and start[8:12] == b"WEBP":
    return "WEBP"
  if start.startswith((b"GIF87a", b"GIF89a")):
    return "GIF"
  if start.startswith(tiff.STARTS) and start[8:10] != b"CR":
    return "TIFF"
  header = int.from_bytes(start[14:18], "little")
  return "BMP" if start.startswith(b"BM") and header in _BMP_HEADERS else ""


def describe(start: bytes) -> str:
  """Returns what a file is that is none of these, and what to do.

  Args:
    start: The first bytes of a file, START of them or all.
  """
  if not start:
    return "the file is empty"
  what, advice = _what(start)
  if not what:
    return f"not a {READ} image"
  return f"{what}, not a {READ} image: {advice}"


def _what(start: bytes) -> tuple[str, str]:
  if not start.strip(b"\0"):
    return "file of zeros", _DOWNLOAD
  if start[4:8] == b"ftyp":
    size = int.from_bytes(start[:4], "big")
    brands = [start[8:12], *(start[i : i + 4] for i in range(16, size, 4))]
    if any(brand in _AVIF for brand in brands):
      return "AVIF", _CONVERT
    if any(brand in _HEIC for brand in brands):
      return "HEIC", _CONVERT
    if start[8:11] == b"crx":
      return "camera raw file", _CONVERT
    return "video", "take out frames as JPEG or PNG"
  if start.startswith(tiff.STARTS):
    return "camera raw file", _CONVERT
  for beginning, found in _STARTS.items():
    if start.startswith(beginning):
      return found
  if start[128:132] == b"DICM":
    return "DICOM", _CONVERT
  if start[257:262] == b"ustar":
    return "tar archive", "unpack it"
  if _PNM.match(start):
    return "PNM", _CONVERT
  if _PICKLE.match(start):
    return "pickle", _CONVERT
  return _what_text(start)


def _what_text(start: bytes) -> tuple[str, str]:
  text = start.removeprefix(b"\xef\xbb\xbf")
  if text.startswith((b"\xff\xfe", b"\xfe\xff")):
    text = text.decode("utf-16", "ignore").encode()
  if _HTML.match(text):
    return "web page (HTML)", _DOWNLOAD
  if _SVG.match(text):
    return "SVG", _CONVERT
  if text.lstrip().startswith(b"<?xml"):
    return "XML file", _DOWNLOAD
  # The last character may be cut.
  decoded = text.decode("utf-8", "ignore")
  if len(decoded.encode()) > len(text) - 4 and (
    all(c.isprintable() or c.isspace() for c in decoded)
  ):
    return "text file", _DOWNLOAD
  return "", ""
