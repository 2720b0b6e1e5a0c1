"""The order of the house: imports go down only, and its map is true."""

import ast
import pathlib
import re

import pytest

import bit_jax

ROOT = pathlib.Path(__file__).resolve().parents[1]
# A package imports those of later rows and itself; those of one row stand
# beside each other. What is not named here is a mistake.
FLOORS = (
  ("tools", "scripts"),
  ("main", "configs"),
  ("train", "preflight"),
  ("run",),
  ("evaluate", "report"),
  ("recipe",),
  ("data", "weights", "writers"),
  ("objectives", "storage"),
  ("models", "parallel"),
  ("errors",),
  ("progress",),
  ("interrupts",),
)
# Arrows between neighbours of one row: scripts parse their flags as tools do.
BESIDE = {("scripts", "tools")}
LEVEL = {name: i for i, names in enumerate(FLOORS) for name in names}


def rooms():
  """Yields (name of the package or top module, path) of every file."""
  for folder in ("bit_jax", "configs", "scripts"):
    for path in sorted((ROOT / folder).rglob("*.py")):
      parts = path.relative_to(ROOT).with_suffix("").parts
      yield (parts[1] if folder == "bit_jax" else folder), path


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
    # Installed, `configs` is no module; only scripts are never installed.
    assert first != "configs" or room == "scripts", module
    if first not in ("bit_jax", "scripts"):
      continue
    other = "scripts" if first == "scripts" else rest.split(".")[0]
    if other in ("", room):
      continue
    assert LEVEL[other] > LEVEL[room] or (room, other) in BESIDE, (
      f"{path.relative_to(ROOT)} imports {module}, which stands above it"
    )


def packages():
  """Returns the packages and top modules of bit_jax, data.sets as well."""
  top = ROOT / "bit_jax"
  found = {p.parent for p in top.rglob("__init__.py")} - {top}
  found |= {p for p in top.glob("*.py") if p.stem != "__init__"}
  names = {
    ".".join(path.relative_to(top).with_suffix("").parts) for path in found
  }
  # Commands with parts are one command to everybody else.
  return {n for n in names if not n.startswith("tools.")}


def docstrings():
  for folder in ("bit_jax", "configs", "scripts"):
    for path in sorted((ROOT / folder).rglob("*.py")):
      tree = ast.parse(path.read_text())
      for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
          yield path, ast.get_source_segment(path.read_text(), body[0])


def test_no_docstring_swallows_a_backslash():
  """Commands over several lines are shown by --help as they are typed."""
  for path, text in docstrings():
    if not text.startswith('r"""'):
      assert "\\\n" not in text, f"{path}: a docstring with \\ starts with r"


def test_the_map_in_the_package_is_true():
  rows = re.findall(r"^  ([a-z._]+) +\S", bit_jax.__doc__ or "", re.MULTILINE)
  assert sorted(rows) == sorted(packages())
  levels = [LEVEL[row.split(".")[0]] for row in rows if row != "main"]
  assert levels == sorted(levels), "imports go down, and so does the map"


def test_the_map_in_the_readme_is_true():
  text = (ROOT / "README.md").read_text()
  development = text.partition("\n## Development\n")[2]
  plan = re.search(r"```text\n(.*?)```", development, re.DOTALL)[1]
  folder, paths = [], []
  for line in plan.splitlines():
    indent, name = re.match(r"( *)(\S+)", line).groups()
    folder = [*folder[: len(indent) // 2], name]
    paths.append("".join(folder))
  for path in paths:
    assert (ROOT / path).exists(), f"README names {path}"
  assert {p for p in paths if p.startswith("bit_jax/")} == {"bit_jax/"} | {
    f"bit_jax/{name.replace('.', '/')}"
    + ("/" if (ROOT / "bit_jax" / name.replace(".", "/")).is_dir() else ".py")
    for name in packages()
  }


def test_the_front_page_can_be_finished():
  assert len((ROOT / "README.md").read_text().splitlines()) < 250
