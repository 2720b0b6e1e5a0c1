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
