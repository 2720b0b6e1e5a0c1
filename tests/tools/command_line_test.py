import pytest

from bit_jax.tools import command_line
from bit_jax.tools.command_line import at_least


def make_parser():
  parser = command_line.Parser("bit_jax.tools.x", "Does x.\n\n  as written")
  parser.add_argument("--size", type=at_least(2), default=7, help="the size")
  parser.add_argument("--secs", type=at_least(0.5), help="the seconds")
  parser.add_argument("--kind", default="", help="the kind (default: by x)")
  parser.add_argument("--px", type=int, default=-1, help="px (default: y)")
  parser.add_argument("--json", action="store_true", help="print JSON")
  return parser


def test_help_has_the_docstring_and_all_defaults():
  text = make_parser().format_help()
  assert "usage: python -m bit_jax.tools.x " in text
  assert "Does x.\n\n  as written\n" in text
  assert "the size (default: 7)" in text
  assert "the seconds (default: none)" in text
  assert text.count("(default: ") == 4
  assert "print JSON\n" in text


def test_help_names_the_command_that_was_typed(monkeypatch):
  monkeypatch.setattr("sys.argv", ["bit_jax x", "--help"])
  assert "usage: bit_jax x [-h]" in make_parser().format_help()


def test_numbers_have_the_type_of_their_least():
  args = make_parser().parse_args(["--size=2", "--secs=1"])
  assert (args.size, args.secs) == (2, 1.0)
  assert [type(args.size), type(args.secs)] == [int, float]


@pytest.mark.parametrize(
  ("flag", "message"),
  [
    *(("--size=1", "2 or more"), ("--size=2.5", "2 or more")),
    *(("--secs=nan", "0.5 or more"), ("--secs=inf", "0.5 or more")),
    *(("--secs=", "0.5 or more"), ("--siz=3", "unrecognized")),
    ("--siz=3", "unrecognized arguments: --siz=3; did you mean --size?"),
    ("--jsn", "did you mean --json?"),
  ],
)
def test_wrong_flags_are_usage_errors(flag, message, capsys):
  with pytest.raises(SystemExit, match="2"):
    make_parser().parse_args([flag])
  assert message in capsys.readouterr().err
