"""Compares the configs of several runs: what was changed between them."""

from collections.abc import Mapping, Sequence
from typing import Any

# What the rules made of a config; other products say the same or nothing.
_PRODUCTS = ("resolved.total_steps", "resolved.peak_lr", "resolved.crop_px")
# These have columns of their own, or change no number.
_LEFT_OUT = ("data.name", "model.variant", "watchdog_mins", "resume_changed")


def differences(
  configs: Sequence[Mapping[str, Any]],
) -> dict[str, list[str]]:
  """Returns the keys whose values differ between configs.

  Args:
    configs: The content of each run's config.json; {} if it is unknown.

  Returns:
    {key: its value in each config as text}, '' where a config does not have it,
    as those of older commits have fewer keys.
  """
  flat = [_flat(config) for config in configs]
  found = {}
  for key in dict.fromkeys(key for config in flat for key in config):
    values = [config.get(key) for config in flat]
    # A key that a config lacks is no change: it is of another commit.
    if len({str(v) for v in values if v is not None}) > 1:
      found[key] = ["" if v is None else _text(v) for v in values]
  return found


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  flat: dict[str, Any] = {}
  for key, value in tree.items():
    name = prefix + key
    if isinstance(value, Mapping):
      flat |= _flat(value, f"{name}.")
    elif name in _PRODUCTS or not name.startswith(("resolved.", *_LEFT_OUT)):
      flat[name] = value
  return flat


def _text(value: Any) -> str:
  if isinstance(value, float):
    return f"{value:g}"
  if isinstance(value, list | tuple):
    return ", ".join(map(str, value)) or "none"
  return str(value) if value != "" else "''"
