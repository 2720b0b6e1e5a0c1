import errno
import os

import pytest
from etils import epath

from bit_jax.errors import InputError, UnavailableError
from bit_jax.storage import checkpoint, remote


def test_only_numbers_are_checkpoints(tmp_path):
  for name in ("5", "12", "12.damaged", "7.orbax-checkpoint-tmp", "hosts"):
    (tmp_path / name).mkdir()
  assert checkpoint.steps(tmp_path) == [12, 5]
  assert checkpoint.steps(tmp_path / "none") == []
  (tmp_path / "file").write_text("")
  assert checkpoint.steps(tmp_path / "file") == []


@pytest.mark.parametrize(
  ("code", "kind"),
  [(errno.ESTALE, UnavailableError), (errno.EACCES, InputError)],
)
def test_a_folder_that_cannot_be_read_is_not_an_empty_one(
  tmp_path, monkeypatch, code, kind
):
  """A run would begin anew in it."""
  (tmp_path / "5").mkdir()

  def fails(path, *args, **kwargs):
    raise OSError(code, os.strerror(code))

  for name in ("stat", "listdir"):
    with monkeypatch.context() as patch:
      patch.setattr(os, name, fails)
      with pytest.raises(kind, match=f"{tmp_path}.* cannot be read: "):
        checkpoint.steps(tmp_path)
  with monkeypatch.context() as patch:
    patch.setattr(os, "stat", fails)
    with pytest.raises(kind, match="config.json: cannot be read: "):
      remote.exists(epath.Path(tmp_path) / "config.json")
