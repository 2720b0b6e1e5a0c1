"""Turns what a user writes as a path into a path: the one place for it.

The shell expands `~` at the start of a word only, so that in `--workdir=~/run`
or `dataset=folder:~/pets` it arrives as it is.
"""

import os
import pathlib
import urllib.parse

from bit_jax.errors import InputError

_FILE = "file://"
# Kinds of data sets whose name is KIND:PATH.
_WITH_PATH = ("folder", "objectnet")


def expand(path: str | os.PathLike[str]) -> str:
  """Returns a path without `~`, `~user` and `file://`.

  Other URLs, such as gs://BUCKET/RUN, and '' stay as they are.

  Args:
    path: Any path; relative ones stay relative.

  Raises:
    InputError: There is no such user, or the URL is of another host.

  Example:
    >>> import os
    >>> expand("~/run") == os.path.join(os.path.expanduser("~"), "run")
    True
    >>> expand("file:///data/run"), expand("gs://bucket/~run"), expand("./run")
    ('/data/run', 'gs://bucket/~run', './run')
  """
  text = os.fspath(path)
  if text.lower().startswith(_FILE):
    host, slash, rest = text[len(_FILE) :].partition("/")
    if host not in ("", "localhost") or not slash:
      raise InputError(f"{text}: expected file:///FOLDER/NAME")
    return urllib.parse.unquote(slash + rest)
  if not text.startswith("~"):
    return text
  expanded = os.path.expanduser(text)
  # A file may be called like that, such as ~backup; a user's home goes first.
  if expanded == text and not os.path.exists(text):
    raise InputError(
      f"{text}: there is no such user; write ./{text} for a file"
    )
  return expanded


def expand_dataset(name: str) -> str:
  """Returns the name of a data set with its path expanded.

  Args:
    name: A name such as `cifar10`, `folder:PATH` or `objectnet:PATH`.

  Raises:
    InputError: The path cannot be expanded.
  """
  kind, colon, path = name.partition(":")
  if kind not in _WITH_PATH:
    return name
  return f"{kind}{colon}{expand(path)}"


def local(path: str) -> pathlib.Path:
  """Returns an expanded path as a pathlib.Path, for a flag of a command."""
  return pathlib.Path(expand(path))


def same_dataset(one: str, other: str) -> bool:
  """Returns True if two names of a data set mean the same, folders as well."""
  kind, _, path = one.partition(":")
  other_kind, _, other_path = other.partition(":")
  if kind == other_kind and kind in _WITH_PATH:
    return same_place(path, other_path)
  return one == other


def same_place(one: str, other: str) -> bool:
  """Returns True if two spellings of a path mean the same file or folder.

  `x`, `./x`, `x/` and a link to x are the same. Neither needs to exist.
  """
  return _place(one) == _place(other)


def _place(path: str) -> str:
  if not path:
    return ""
  try:
    path = expand(path)
  except InputError:
    # A stored path may name a user that this machine does not have.
    return path
  if "://" in path:
    return path.rstrip("/")
  return os.path.realpath(path)
