"""The environment: with tools of developers only where asked for."""

import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PIP = "-m pip install --quiet --disable-pip-version-check --editable ."
# Takes the place of Python in the environment, and of pip.
PYTHON = """#!/bin/sh
[ "$1" = -c ] || echo "$@" >> "$(dirname "$0")/../calls"
"""


@pytest.fixture
def checkout(tmp_path):
  (tmp_path / "scripts").mkdir()
  for name in ("scripts/setup_env.sh", "requirements.txt", "pyproject.toml"):
    shutil.copy(ROOT / name, tmp_path / name)
  python = tmp_path / ".venv/bin/python"
  python.parent.mkdir(parents=True)
  python.write_text(PYTHON)
  python.chmod(0o755)
  return tmp_path


def set_up(checkout, *args):
  """Runs the script; returns (exit code, what pip was asked to install)."""
  calls = checkout / ".venv/calls"
  calls.unlink(missing_ok=True)
  script = checkout / "scripts/setup_env.sh"
  done = subprocess.run([script, *args], capture_output=True, text=True)
  asked = calls.read_text().splitlines() if calls.exists() else []
  assert all(line.startswith(PIP) for line in asked)
  return done.returncode, [line.split()[-1] for line in asked]


def test_users_get_no_tools_of_developers(checkout):
  assert set_up(checkout) == (0, ["."])
  assert set_up(checkout) == (0, [])
  assert set_up(checkout, "dev") == (0, ["requirements.txt"])
  # They are kept, and kept up to date.
  assert set_up(checkout) == set_up(checkout, "dev") == (0, [])
  with (checkout / "requirements.txt").open("a") as file:
    file.write("another\n")
  assert set_up(checkout) == (0, ["requirements.txt"])


def test_other_keys_of_pyproject_toml_install_nothing(checkout):
  assert set_up(checkout) == (0, ["."])
  path = checkout / "pyproject.toml"
  path.write_text(path.read_text().replace("line-length = 80", ""))
  assert set_up(checkout) == (0, [])
  path.write_text(path.read_text().replace("bit_jax.main:command", "x:y"))
  assert set_up(checkout) == (0, ["."])


def test_wrong_arguments(checkout):
  assert set_up(checkout, "devel") == (1, [])
  assert set_up(checkout, "dev", "dev") == (1, [])


def test_whose_tests_and_checks_need_the_tools():
  for name in ("scripts/test.sh", "scripts/check.sh", ".ci/run"):
    assert "scripts/setup_env.sh dev\n" in (ROOT / name).read_text()
  quickstart = (ROOT / "scripts/quickstart.sh").read_text()
  assert "scripts/setup_env.sh\n" in quickstart
