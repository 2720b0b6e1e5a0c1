import pytest

from bit_jax.errors import InputError
from bit_jax.objectives import named
from bit_jax.recipe import load
from configs import common


def test_every_path_of_a_config_is_expanded(monkeypatch):
  monkeypatch.setenv("HOME", "/home/me")
  config = common.get_config()
  config.data.name = "folder:~/pets"
  config.eval.fewshot = "digits,folder:~/birds, cifar10"
  paths = load._PATHS
  for objective in named.OBJECTIVES.values():
    assert set(objective.fixed.values()) <= set(paths)
  for key in paths:
    config.update_from_flattened_dict({key: f"~/{key}"})
  expanded = load.expand_paths(config)
  assert config.data.name == "folder:~/pets"
  assert expanded.data.name == "folder:/home/me/pets"
  assert expanded.eval.fewshot == "digits,folder:/home/me/birds, cifar10"
  for key in paths:
    assert load.get(expanded, key) == f"/home/me/{key}"


def test_a_home_that_is_not_there_names_the_key():
  config = common.get_config()
  config.init.checkpoint = "~no-such-user/x"
  with pytest.raises(InputError, match="^config.init.checkpoint=~no-such-user"):
    load.expand_paths(config)


def test_only_paths_have_spellings(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert load.same_value("init.checkpoint", "x", "./x")
  assert load.same_value("eval.fewshot", "a,folder:x", "a, folder:./x")
  assert not load.same_value("eval.fewshot", "a,folder:x", "a")
  assert not load.same_value("data.train_split", "x", "./x")
  assert not load.same_value("optim.lr", 0.1, 0.2)


def test_a_config_file_in_the_home_folder(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  (tmp_path / "mine.py").write_text("from configs.common import get_config\n")
  config = load.load_config("~/mine.py", ["--config.data.dir=~/sets"])
  assert config.data.dir == f"{tmp_path}/sets"
