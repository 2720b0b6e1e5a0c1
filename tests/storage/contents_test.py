import io
import itertools
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
import safetensors.numpy

from bit_jax.storage import contents


def zipped(*names):
  data = io.BytesIO()
  with zipfile.ZipFile(data, "w") as file:
    for name in names:
      file.writestr(name, b"x")
  return data.getvalue()


def tarred():
  data = io.BytesIO()
  with tarfile.open(fileobj=data, mode="w") as file:
    file.addfile(tarfile.TarInfo("x"))
  return data.getvalue()


def npy():
  data = io.BytesIO()
  np.save(data, np.zeros(3))
  return data.getvalue()


def with_length(length):
  """Returns a .safetensors file whose header has a length."""
  return length.to_bytes(8, "little") + b"{}".ljust(length)


@pytest.mark.parametrize(
  ("content", "kind"),
  [
    (b"", "empty"),
    (b"version https://git-lfs.github.com/spec/v1\noid", contents.POINTER),
    (b"<!DOCTYPE html><html>", contents.PAGE),
    (b"\xef\xbb\xbf \n<HTML lang='en'>", contents.PAGE),
    (b"<!-- saved\nfrom -->\n<!doctype html>", contents.PAGE),
    (b"<?xml version='1.0'?><Error>", "XML, which begins with"),
    (b'{"error": "no such model"}', "JSON, which begins with '{"),
    (b"see the other file\nthere", "text, which begins with 'see the other"),
    (pickle.dumps({"a": 1}, 2), contents.PICKLE),
    (pickle.dumps({"a": 1}, 5), contents.PICKLE),
    (zipped("archive/data.pkl", "archive/version"), contents.TORCH),
    (zipped("model.safetensors"), "a zip archive with model.safetensors"),
    (zipped("config.json", "model.weights.h5"), "a Keras model"),
    (zipped("a.npy", "b.npy"), contents.NPZ),
    (zipped("a.npy", "b.npy")[:60], contents.NPZ),
    (safetensors.numpy.save({"a": np.zeros(3)}), contents.SAFETENSORS),
    # Lengths whose bytes are the first of gzip, bzip2 and pickle.
    *[(with_length(n), contents.SAFETENSORS) for n in (0x8B1F, 0x0280)],
    (npy(), contents.NPY),
    (tarred(), contents.TAR),
    (b"\x1f\x8b\x08\0", "compressed with gzip"),
    (b"BZh91AY", "compressed with bzip2"),
    (b"\xfd7zXZ\0\0", "compressed with xz"),
    (b"\x89HDF\r\n\x1a\n\0", "an HDF5 file"),
    (b"\x81\xa6params\x82", "a MessagePack file"),
    (b"\x08\x07\x12\x07pytorch\x1a", "an ONNX model"),
    (b"\x1c\0\0\0TFL3\0", "a TensorFlow Lite model"),
    (b"\xff\xd8\xff\xe0\0\x10JFIF", "a JPEG image"),
    (bytes(2000), contents.ZEROS),
  ],
  # Not the contents: a zip archive holds the time.
  ids=itertools.count(),
)
def test_a_file_is_what_it_holds(tmp_path, content, kind):
  path = tmp_path / "x.npz"
  path.write_bytes(content)
  found = contents.describe(path)
  assert found == kind or (" " in kind and found.startswith(kind))


@pytest.mark.parametrize("content", [b"\x07\x03\0\xff", b"caf\xe9 "])
def test_what_is_not_known_has_no_name(tmp_path, content):
  path = tmp_path / "x"
  path.write_bytes(content)
  assert contents.describe(path) == ""
