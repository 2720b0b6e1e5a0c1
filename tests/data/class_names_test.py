import pytest

from bit_jax.data import class_names
from bit_jax.errors import InputError


def test_reads_one_name_a_line(tmp_path):
  path = tmp_path / "names.txt"
  path.write_text("n01440764\n great white \n\n")
  assert class_names.read(str(path), "--x") == ("n01440764", "great white")
  path.write_text("a\n\nb\n")
  with pytest.raises(InputError, match="--x=.*names.txt: line 2 is empty"):
    class_names.read(str(path), "--x")
  with pytest.raises(InputError, match="--x=/no/such cannot be read"):
    class_names.read("/no/such", "--x")


@pytest.mark.parametrize(
  ("names", "message"),
  [
    ("abc", None),
    ("acb", "another order: class 1 is 'c' in the data and 'b' in the list"),
    ("ab", r"2 and 3; 1 \('c'\) only in the list$"),
    ("abd", r"1 \('c'\) only in the list, 1 \('d'\) only in the data"),
    ("abcc", "4 and 3; the same names, some of them repeated$"),
    ("a", r"2 \('b', 'c'\) only in the list"),
    ("wxyzabc", r"4 \('w', 'x', 'y' and 1 more\) only in the data"),
  ],
)
def test_classes_must_be_the_listed_ones_in_order(names, message):
  if message is None:
    return class_names.check(names, "abc", "x and y")
  with pytest.raises(InputError, match=f"x and y have .*{message}"):
    class_names.check(names, "abc", "x and y")


@pytest.mark.parametrize(
  "content",
  [
    b"\xef\xbb\xbfcat\ncaf\xc3\xa9\n",
    "cat \r\ncafe\u0301\t\r\n\r\n".encode("utf-16"),
    b"cat\rcaf\xc3\xa9",
  ],
)
def test_names_from_any_editor(tmp_path, content):
  path = tmp_path / "bom.txt"
  path.write_bytes(content)
  assert class_names.read(str(path), "--x") == ("cat", "caf\u00e9")


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (b"cat\ncaf\xe9\n", "line 2 is not in UTF-8"),
    (b"c\0a\0t\0", "line 1 holds a zero byte"),
    (b"\n \n", "there are no class names in it"),
  ],
)
def test_what_is_no_list_of_names(tmp_path, content, message):
  path = tmp_path / "names.txt"
  path.write_bytes(content)
  with pytest.raises(InputError, match=f"--x=.*names.txt.*{message}"):
    class_names.read(str(path), "--x")


def test_the_home_folder_of_a_list(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  (tmp_path / "names.txt").write_text("cat\n")
  assert class_names.read("~/names.txt", "--x") == ("cat",)
