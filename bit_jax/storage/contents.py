"""Names what a file really is, by its first bytes and not by its name.

Downloads often leave something else under the right name: a page that asks for
a login, a pointer of git-lfs, a part of the file.
"""

import contextlib
import os
import re
import zipfile

NPZ, SAFETENSORS, TAR = "npz", "safetensors", "tar"

_HEAD_BYTES = 1024
NPY = "a single array (.npy)"
# (first bytes, what starts with them).
_MAGIC = (
  (b"\x93NUMPY", NPY),
  (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes them"),
  (b"\x1f\x8b", "compressed with gzip"),
  (b"BZh", "compressed with bzip2"),
  (b"\xfd7zXZ\0", "compressed with xz"),
  (b"\x28\xb5\x2f\xfd", "compressed with zstd"),
  (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
  (b"Rar!\x1a\x07", "a RAR archive"),
  (b"GGUF", "a GGUF file"),
  (b"%PDF", "a PDF document"),
  (b"\xff\xd8\xff", "a JPEG image"),
  (b"\x89PNG\r\n\x1a\n", "a PNG image"),
  (b"GIF8", "a GIF image"),
  (b"\x7fELF", "a program"),
)
_PAGE = re.compile(
  rb"\s*(<!--.*?-->\s*)*<(!doctype html|html|head|body)\b",
  re.IGNORECASE | re.DOTALL,
)
_LFS = b"version https://git-lfs.github.com/spec/"

TEXTS = ("XML", "JSON", "text")
POINTER = "a pointer of git-lfs, not the file itself"
PAGE = "a saved web page (HTML)"
PICKLE = "a Python pickle, as PyTorch writes them"
ZEROS = "all zeros at its start, as after a download that broke off"
TORCH = "a PyTorch file (a zip archive with a pickle)"


def describe(path: str | os.PathLike[str]) -> str:
  """Returns what a local file is: NPZ, SAFETENSORS, TAR, or a phrase.

  Args:
    path: An existing file.

  Returns:
    One of the constants for what may be read, or a phrase that continues "it
    is", such as `a saved web page (HTML)`; '' for an unknown kind of file.

  Raises:
    OSError: The file cannot be read.
  """
  with open(path, "rb") as file:
    head = file.read(_HEAD_BYTES)
  if not head:
    return "empty"
  # Any two bytes may be the first of its length, those of gzip as well.
  if _is_safetensors(head):
    return SAFETENSORS
  if head.startswith(_LFS):
    return POINTER
  if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
    return _zip(path)
  if head[257:262] == b"ustar":
    return TAR
  for magic, name in _MAGIC:
    if head.startswith(magic):
      return name
  if head[4:8] == b"TFL3":
    return "a TensorFlow Lite model"
  # A pickle starts with its protocol, whose opcode is 0x80; in a map of
  # MessagePack, which flax writes, this byte is the number of entries.
  if head[0] == 0x80 and head[1:2] in (b"\2", b"\3", b"\4", b"\5"):
    return PICKLE
  if 0x80 <= head[0] <= 0x8F or head[0] in (0xDE, 0xDF):
    return "a MessagePack file, as flax writes them (.msgpack)"
  # ONNX and SavedModel are protocol buffers, which have no magic bytes.
  if head[0] == 0x08 and (b"onnx" in head or b"pytorch" in head):
    return "an ONNX model"
  if head.count(0) == len(head):
    return ZEROS
  return _text(head)


def _zip(path: str | os.PathLike[str]) -> str:
  # What cannot be listed may still be a .npz of which the end is missing.
  names = []
  with (
    contextlib.suppress(zipfile.BadZipFile, OSError, ValueError),
    zipfile.ZipFile(path) as archive,
  ):
    names = archive.namelist()
  if any(name.endswith("data.pkl") for name in names):
    return TORCH
  if not names or all(name.endswith(".npy") for name in names):
    return NPZ
  keras = {"config.json", "model.weights.h5"}.issubset(names)
  kind = "a Keras model (.keras)" if keras else "a zip archive"
  return f"{kind} with {names[0]}" if not keras else kind


def _is_safetensors(head: bytes) -> bool:
  """Returns True for a length as uint64 followed by a JSON object."""
  length = int.from_bytes(head[:8], "little")
  return head[8:9] == b"{" and 2 <= length < 2**32


def _text(head: bytes) -> str:
  if _PAGE.match(head.removeprefix(b"\xef\xbb\xbf")):
    return PAGE
  if b"\0" in head:
    return ""
  try:
    # A character may be cut at the end.
    text = head.decode(errors="strict" if len(head) < _HEAD_BYTES else "ignore")
  except UnicodeDecodeError:
    return ""
  text = text.lstrip("\ufeff \t\r\n")
  if sum(not (c.isprintable() or c.isspace()) for c in text):
    return ""
  first = text.partition("\n")[0].strip()
  shown = first if len(first) <= 60 else first[:60] + "..."
  xml, json, plain = TEXTS
  kind = xml if text.startswith("<") else plain
  kind = json if text.startswith(("{", "[")) else kind
  return f"{kind}, which begins with {shown!r}"
