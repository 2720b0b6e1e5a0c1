"""Installs bit_jax into an empty environment, and uses it from elsewhere."""

import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig

import pytest

from tests.main_test import write_folder

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Needed to build, as in a clone; scripts and tests must not be installed.
COPIED = ("bit_jax", "configs", "scripts", "tests/fakes.py", "pyproject.toml")
COPIED += ("README.md", "LICENSE")

pytestmark = pytest.mark.slow


class Environment:
  """A virtual environment with bit_jax and what bit_jax needs.

  Attributes:
    bin: The folder of its programs.
    clone: The folder that it was installed from.
    new: Names that the install added to site-packages.
  """

  def __init__(self, folder, flags):
    self.clone = clone = folder / "clone"
    for name in COPIED:
      source, target = ROOT / name, clone / name
      target.parent.mkdir(parents=True, exist_ok=True)
      if source.is_dir():
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, target, ignore=ignored)
      else:
        shutil.copy(source, target)
    venv = folder / "venv"
    subprocess.run(
      [sys.executable, "-m", "venv", "--without-pip", venv], check=True
    )
    self.bin = venv / "bin"
    [packages] = venv.glob("lib/*/site-packages")
    # All requirements, but not what their environment's .pth files name.
    (packages / "requirements.pth").write_text(sysconfig.get_path("purelib"))
    before = {path.name for path in packages.iterdir()}
    pip = [sys.executable, "-m", "pip", "--python", self.bin / "python"]
    done = subprocess.run(
      [*pip, "install", "--quiet", "--no-deps", *flags, clone],
      capture_output=True,
      text=True,
    )
    if "No matching distribution found for setuptools" in done.stderr:
      pytest.skip("no package index to get setuptools from")
    assert done.returncode == 0, done.stderr
    self.new = {path.name for path in packages.iterdir()} - before

  def run(self, *command, cwd):
    """Runs a program of the environment; returns the finished process."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
      [self.bin / command[0], *command[1:]],
      cwd=cwd,
      env=env | {"XDG_CACHE_HOME": str(cwd / "cache")},
      capture_output=True,
      text=True,
    )


@pytest.fixture(scope="module", params=["normal", "editable"])
def installed(request, tmp_path_factory):
  """An environment with bit_jax, installed in one of two ways."""
  flags = ["--editable"] if request.param == "editable" else []
  made = Environment(tmp_path_factory.mktemp(request.param), flags)
  made.is_editable = bool(flags)
  return made


def test_nothing_else_is_installed(installed, tmp_path):
  new = {name for name in installed.new if name != "__pycache__"}
  new = {name for name in new if not name.endswith(".dist-info")}
  if installed.is_editable:
    assert all(name.startswith("__editable__") for name in new)
  else:
    assert new == {"bit_jax"}
  for name in ("configs", "scripts", "tests"):
    done = installed.run("python", "-c", f"import {name}", cwd=tmp_path)
    assert f"No module named '{name}'" in done.stderr


def test_configs_are_a_package(installed, tmp_path):
  program = """if True:
    import importlib, pkgutil
    import bit_jax.configs
    found = pkgutil.iter_modules(bit_jax.configs.__path__)
    names = sorted(module.name for module in found)
    for name in names:
      importlib.import_module(f"bit_jax.configs.{name}")
    print(*names)
    config = bit_jax.configs.downstream.get_config("preset=quick")
    print(config.input.batch_size)
  """
  done = installed.run("python", "-c", program, cwd=tmp_path)
  assert done.returncode == 0, done.stderr
  names = sorted(p.stem for p in (ROOT / "configs").glob("*.py"))
  names.remove("__init__")
  assert done.stdout == f"{' '.join(names)}\n32\n"


def test_a_folder_of_photos_from_another_folder(installed, tmp_path):
  write_folder(tmp_path / "photos")
  (tmp_path / "mine.py").write_text(
    "from configs import downstream\n\ndef get_config(arg=None):\n"
    "  c = downstream.get_config(f'preset=quick,{arg}')\n"
    "  c.total_steps = 2\n  c.input.batch_size = 8\n  return c\n"
  )
  # A clone that has the name of the package stands beside it.
  (tmp_path / "bit_jax").symlink_to(installed.clone)
  chosen = "model=R14x0.0625,dataset=folder:photos"
  short = ("--config.total_steps=2", "--config.input.batch_size=8")
  for i, (program, flags) in enumerate(
    (
      (["bit_jax", "train"], [f"--config=downstream:preset=quick,{chosen}"]),
      (["python", "-m", "bit_jax.main"], [f"--config=mine.py:{chosen}"]),
    )
  ):
    workdir = f"--workdir=run{i}"
    done = installed.run(
      *program, *flags, workdir, *(() if i else short), cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / f"run{i}/params.npz").exists()
  done = installed.run("bit_jax", "report", "run0", "run1", cwd=tmp_path)
  assert (done.returncode, done.stderr) == (0, "")
  assert "<html" in (tmp_path / "report.html").read_text()
  study = "--study=kshot:dataset=digits,model=R14x0.0625,preset=quick"
  done = installed.run(
    *("bit_jax", "study", study, "--workdir=s", "--runs="), cwd=tmp_path
  )
  assert (done.returncode, done.stderr) == (0, "see s/study.html\n")
  assert "not run" in (tmp_path / "s/study.md").read_text()


def test_mistakes_are_one_line(installed, tmp_path):
  for args, code, message in (
    (["trian"], 2, "did you mean train?"),
    (["train", "--config=downstrem", "--workdir=x"], 2, "mean downstream?"),
    (["study", "--study=kshto", "--workdir=x"], 2, "did you mean kshot?"),
    (["evaluate", "no.npz", "--dataset=digits"], 1, "no.npz"),
  ):
    done = installed.run("bit_jax", *args, cwd=tmp_path)
    assert done.returncode == code
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
