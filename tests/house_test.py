"""The order of the house: imports go down only, and its map is true."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
# A package imports those of later rows and itself; those of one row stand
# beside each other. What is not named here is a mistake.
FLOORS = (
  ("tools", "scripts"),
  ("main",),
  ("train", "preflight"),
  ("run",),
  ("evaluate", "report"),
  ("recipe",),
  ("data", "weights", "writers"),
  ("objectives", "storage"),
  ("models", "parallel"),
  ("errors",),
)
# Arrows between neighbours of one row.
BESIDE = {("preflight", "train"), ("evaluate", "report")}
LEVEL = {name: i for i, names in enumerate(FLOORS) for name in names}


def rooms():
  """Yields (name of the package or top module, path) of every file."""
  for folder in ("bit_jax", "scripts"):
    for path in sorted((ROOT / folder).rglob("*.py")):
      parts = path.relative_to(ROOT).with_suffix("").parts
      yield ("scripts" if folder == "scripts" else parts[1]), path


def imported(path):
  """Yields the modules that a file imports, at its top or in a function."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, f"{path}: a relative import"
      for alias in node.names:
        yield f"{node.module}.{alias.name}"


@pytest.mark.parametrize(
  ("room", "path"),
  [(r, p) for r, p in rooms() if r != "__init__"],
  ids=lambda x: str(x.relative_to(ROOT)) if isinstance(x, pathlib.Path) else "",
)
def test_imports_go_down(room, path):
  for module in imported(path):
    first, _, rest = module.partition(".")
    assert first != "configs" or room == "scripts", module
    if first not in ("bit_jax", "scripts"):
      continue
    other = "scripts" if first == "scripts" else rest.split(".")[0]
    if other in ("", room):
      continue
    assert LEVEL[other] > LEVEL[room] or (room, other) in BESIDE, (
      f"{path.relative_to(ROOT)} imports {module}, which stands above it"
    )
