import pytest

from tests.tools.pack.sets import numbered, write


@pytest.fixture
def src(tmp_path):
  return write(tmp_path / "src", *numbered("dog", "cat", count=8))


@pytest.fixture
def out(tmp_path):
  return tmp_path / "out"
