import codecs
import os

import pytest

from bit_jax.errors import InputError
from bit_jax.storage import files


def test_what_json_holds(tmp_path):
  path = tmp_path / "x.json"
  path.write_bytes('{"a": "\u00e4"}'.encode())
  assert files.read_json(path) == {"a": "\u00e4"}
  path.write_text("[1]")
  assert files.read_json(str(path), list) == [1]


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (None, "x.json cannot be read: .*No such file"),
    (b"{", "x.json cannot be read: Expecting"),
    (b'{"a": "\xe4"}', "x.json cannot be read: line 1 is not in UTF-8"),
    (b"[1]", "x.json: expected a JSON object$"),
  ],
)
def test_bad_json_is_named(tmp_path, content, message):
  path = tmp_path / "x.json"
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(InputError, match=message):
    files.read_json(path)
  with pytest.raises(InputError, match="^map: |^map cannot be read"):
    files.read_json(path, what="map")


def test_text_takes_the_place_of_the_file_as_a_whole(tmp_path):
  path = tmp_path / "x.txt"
  path.write_text("old")
  older = tmp_path / "older"
  older.hardlink_to(path)
  files.write_text(path, "\u00e4")
  assert path.read_text() == "\u00e4"
  assert older.read_text() == "old"
  assert {p.name for p in tmp_path.iterdir()} == {"x.txt", "older"}


def test_names_of_files_that_are_not_text_can_be_written(tmp_path):
  files.write_text(tmp_path / "x.txt", os.fsdecode(b"caf\xe9\n"))
  assert files.read_text(tmp_path / "x.txt") == "caf\\udce9\n"


@pytest.mark.parametrize(
  ("encoding", "mark"),
  [
    ("utf-8", b""),
    ("utf-8", codecs.BOM_UTF8),
    ("utf-16-le", codecs.BOM_UTF16_LE),
    ("utf-16-be", codecs.BOM_UTF16_BE),
    ("utf-32-le", codecs.BOM_UTF32_LE),
    ("utf-32-be", codecs.BOM_UTF32_BE),
  ],
)
def test_text_of_any_editor(tmp_path, encoding, mark):
  path = tmp_path / "x.txt"
  # Windows ends lines in two characters, old Macs in the first of them.
  path.write_bytes(mark + "a\r\n\u00e4\rc\n\ufeffd".encode(encoding))
  assert files.read_text(path) == "a\n\u00e4\nc\nd"


@pytest.mark.parametrize(
  ("content", "message"),
  [
    ("a\nb\xe4r\n".encode("latin-1"), r"line 2 is not in UTF-8 \(byte 0xe4\)"),
    ("a\nb\n".encode("utf-16-le"), "line 1 holds a zero byte"),
    (codecs.BOM_UTF16_LE + b"a\0b", "is not in UTF-8"),
  ],
)
def test_other_encodings_are_named(tmp_path, content, message):
  path = tmp_path / "x.txt"
  path.write_bytes(content)
  with pytest.raises(InputError, match=f"^--x cannot be read: .*{message}"):
    files.read_text(path, "--x")


def test_a_key_that_is_there_twice_is_no_choice(tmp_path):
  path = tmp_path / "x.json"
  path.write_text('{"b": 1, "a": {"c": 1, "c": 2}}')
  with pytest.raises(InputError, match="the key 'c' is there twice"):
    files.read_json(path)
  path.write_text(" \n")
  with pytest.raises(InputError, match="x.json cannot be read: .* is empty"):
    files.read_json(path)


def test_names_that_look_the_same_are_the_same():
  assert files.normal("cafe\u0301") == files.normal("\ufeffcaf\u00e9")
