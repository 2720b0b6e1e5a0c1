"""Names of configs: from any folder, in every spelling; what they import."""

import importlib
import pathlib
import sys

import pytest

from bit_jax.errors import UsageError
from bit_jax.recipe import config_files, load

PACKAGED = pathlib.Path(importlib.import_module("bit_jax.configs").__path__[0])


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
  """Changes to an empty folder; `configs` of the checkout is not importable."""
  monkeypatch.chdir(tmp_path)
  root = str(PACKAGED.parent)
  monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", root)])
  for name in [*sys.modules]:
    if name == "configs" or name.startswith("configs."):
      monkeypatch.delitem(sys.modules, name)
  return tmp_path


@pytest.mark.parametrize(
  "name",
  [
    *("downstream", "downstream.py", "configs/downstream.py"),
    *("configs/downstream", "./configs/downstream.py"),
  ],
)
def test_every_spelling_names_the_config_that_comes_with_it(name):
  path = str(PACKAGED / "downstream.py")
  assert config_files.find(name) == path
  assert config_files.find(f"{name}:a=b:c") == f"{path}:a=b:c"


def test_a_name_is_a_config_even_beside_a_folder_of_that_name(elsewhere):
  (elsewhere / "downstream").mkdir()
  assert config_files.find("downstream") == str(PACKAGED / "downstream.py")


def test_configs_of_the_current_folder_go_first(elsewhere):
  own = elsewhere / "configs"
  own.mkdir()
  (own / "downstream.py").touch()
  (own / "mine.py").touch()
  for name in ("downstream", "configs/downstream.py", "configs/mine.py"):
    assert config_files.find(name) == f"configs/{pathlib.Path(name).stem}.py"
  assert config_files.find("mine:a=b") == "configs/mine.py:a=b"
  assert config_files.find("upstream") == str(PACKAGED / "upstream.py")
  (elsewhere / "x.py").touch()
  assert config_files.find(f"{elsewhere}/x.py") == f"{elsewhere}/x.py"


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("downstrem", r"--config=downstrem: .* \(did you mean downstream\?\)"),
    ("configs/vtb.py:task=dtd", r"configs/vtb.py: .* \(did you mean vtab\?\)"),
    ("/no/such.py", "/no/such.py: there is no such Python file; of configs/"),
    ("", "--config=: there is no such Python file"),
    ("configs", "--config=configs: there is no such"),
    ("__init__", "there is no such"),
    ("common/x", "there is no such"),
  ],
)
def test_what_is_not_there(name, message):
  (pathlib.Path.cwd() / "configs").mkdir()
  with pytest.raises(UsageError, match=message):
    config_files.find(name)


CONFIG = """
from {package} import downstream

def get_config(arg=None):
  config = downstream.get_config("preset=quick")
  config.seed = 77
  return config
"""


@pytest.mark.parametrize("package", ["configs", "bit_jax.configs"])
@pytest.mark.parametrize("folder", [".", "configs", "exp/deep"])
def test_a_file_of_ones_own_imports_ours(elsewhere, package, folder):
  path = elsewhere / folder / "mine.py"
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(CONFIG.format(package=package))
  config = load.load_config(f"{folder}/mine.py", [])
  assert (config.seed, config.input.batch_size) == (77, 32)
  # Only while it was loaded.
  assert "configs" not in sys.modules
  with pytest.raises(ImportError):
    importlib.import_module("configs.downstream")


def test_files_of_ones_own_import_each_other_before_ours(elsewhere):
  (elsewhere / "configs").mkdir()
  (elsewhere / "configs/mine.py").write_text(CONFIG.format(package="configs"))
  own = "from bit_jax.configs.upstream import get_config\n"
  (elsewhere / "configs/downstream.py").write_text(own)
  (elsewhere / "configs/downstream.py").write_text(
    "from configs import common\n\ndef get_config(arg):\n"
    "  c = common.get_config()\n  c.input.batch_size = 7\n  return c\n"
  )
  assert load.load_config("mine", []).input.batch_size == 7


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("", r"mine.py has no get_config\(arg\)"),
    ("from configs import no_such", "no usable Python file: cannot import"),
    ("def get_study(arg): pass", "is a study of several runs: bit_jax study"),
  ],
)
def test_files_that_are_no_configs(elsewhere, text, message):
  (elsewhere / "mine.py").write_text(text)
  with pytest.raises(UsageError, match=message):
    load.load_config("mine.py", [])
  assert "configs" not in sys.modules
