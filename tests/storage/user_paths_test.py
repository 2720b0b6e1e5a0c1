import pathlib

import pytest

from bit_jax.errors import InputError
from bit_jax.storage import user_paths


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  monkeypatch.chdir(tmp_path)
  return tmp_path


@pytest.mark.parametrize(
  ("text", "path"),
  [
    ("~", "{home}"),
    ("~/x/", "{home}/x/"),
    ("~root/x", "/root/x"),
    ("file:///a%20b/c", "/a b/c"),
    ("FILE://localhost/a", "/a"),
    *[(text, text) for text in ("", "x", "./x", "a/~/b", "gs://b/~/x")],
    ("s3://b/x", "s3://b/x"),
  ],
)
def test_a_path_of_a_user(text, path, home):
  expanded = user_paths.expand(text)
  assert expanded == path.format(home=home) or text == "~root/x"
  assert user_paths.expand(pathlib.PurePath("~/x")) == f"{home}/x"


@pytest.mark.parametrize(
  "text", ["~no-such-user/x", "file://host/x", "file://"]
)
def test_what_is_no_path(text):
  with pytest.raises(InputError, match=text):
    user_paths.expand(text)


def test_a_file_may_begin_like_a_user(home):
  (home / "~old copy").touch()
  assert user_paths.expand("~old copy") == "~old copy"


def test_names_of_data_sets(home):
  expand = user_paths.expand_dataset
  assert expand("folder:~/pets") == f"folder:{home}/pets"
  assert expand("objectnet:~/o") == f"objectnet:{home}/o"
  assert expand("cifar10:1.*.*") == "cifar10:1.*.*"


def test_spellings_of_one_place(home):
  (home / "x").mkdir()
  (home / "link").symlink_to("x")
  spellings = ["x", "./x", "x/", "x/../x", "~/x", f"{home}/x", "link"]
  for text in spellings:
    assert user_paths.same_place("x", text), text
    assert user_paths.same_dataset(f"folder:{text}", "folder:x")
  assert user_paths.same_place("no/such", "./no//such")
  assert user_paths.same_place("gs://b/x/", "gs://b/x")
  assert user_paths.same_place("~no-such-user/x", "~no-such-user/x")
  for other in ("", "y", "gs://b/x"):
    assert not user_paths.same_place("x", other)
  assert not user_paths.same_dataset("folder:x", "objectnet:x")
  assert not user_paths.same_dataset("cifar10", "./cifar10")
