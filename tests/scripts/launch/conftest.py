"""Stubs in place of Python for all launchers."""

import os

import pytest

from tests.scripts.launch import launchers


@pytest.fixture(autouse=True)
def environment(tmp_path, monkeypatch):
  """Puts the stubs in `tmp_path/bin` first on PATH, in place of Python too."""
  (tmp_path / "bin").mkdir()
  monkeypatch.setenv("OUT", str(tmp_path))
  monkeypatch.setenv("TMPDIR", str(tmp_path))
  monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
  monkeypatch.setenv(
    "BIT_JAX_PYTHON",
    launchers.write_program(tmp_path, "python", launchers.PROGRAM),
  )
  for name in ("CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS", "XLA_FLAGS"):
    monkeypatch.delenv(name, raising=False)
