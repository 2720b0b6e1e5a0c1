"""A text that tells one objective of a user's own from another."""

import dataclasses
import functools
import hashlib
from typing import Any

import flax.linen as nn

from bit_jax.errors import InputError


def name_of(objective: Any) -> str:
  """Returns its class name and 8 digits that any of its values changes.

  The same in every process, so that a run knows itself when it goes on.

  Raises:
    InputError: A value has no such text, such as a lambda.
  """
  text = _text(objective, type(objective).__name__)
  digits = hashlib.sha256(text.encode()).hexdigest()[:8]
  return f"{type(objective).__name__}, {digits}"


def _text(value: Any, where: str) -> str:
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    fields = {f.name: getattr(value, f.name, None) for f in _fields(value)}
    inner = (f"{k}={_text(v, f'{where}.{k}')}" for k, v in fields.items())
    return f"{_path(type(value))}({', '.join(inner)})"
  if isinstance(value, functools.partial):
    parts = (value.func, value.args, value.keywords)
    return f"partial{_text(parts, where)}"
  if isinstance(value, dict):
    items = (f"{k!r}: {_text(v, where)}" for k, v in value.items())
    return f"{{{', '.join(items)}}}"
  if isinstance(value, list | tuple):
    return f"({', '.join(_text(v, where) for v in value)})"
  # Functions, classes, and what wraps a function, as jax.nn.relu does.
  named = callable(value) and hasattr(value, "__qualname__")
  text = _path(value) if named else repr(value)
  if "<lambda>" in text or " at 0x" in text:
    raise InputError(
      f"{where} is {text}, which has another name in another process: expected "
      f"a function with a name, or a plain value"
    )
  return text


def _fields(value: Any) -> list[Any]:
  # Where a module stands in another one is no value of its own.
  own = {"parent"} if isinstance(value, nn.Module) else set()
  return [f for f in dataclasses.fields(value) if f.name not in own]


def _path(value: Any) -> str:
  return f"{value.__module__}.{value.__qualname__}"
