import pytest

from bit_jax import errors


def test_long_lists_are_cut():
  assert errors.some(["d", "b", "c", "a"]) == "a, b, c and 1 more"
  assert errors.some(iter("ba")) == "a, b"
  assert errors.some([]) == ""


@pytest.mark.parametrize(
  ("error", "status", "message"),
  [
    (None, 0, ""),
    (errors.InputError("a\n b"), 1, "error: a b\n"),
    (errors.UsageError(), 2, "error: UsageError\n"),
    (KeyboardInterrupt(), 130, ""),
  ],
)
def test_how_a_command_ends(capsys, error, status, message):
  def command():
    if error:
      raise error

  assert errors.exit_status(command) == status
  assert capsys.readouterr().err == message
