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
