"""Writes metrics as people read them: shares in per cent, numbers rounded."""

# Last words of the names of shares of 1.
_SHARES = ("accuracy", "agreement", "input_wait")


def is_share(name: str) -> bool:
  """Returns True for metrics from 0 to 1 that people read in per cent.

  Args:
    name: Such as `eval/test/accuracy` or `5shot_accuracy`.
  """
  return name.endswith(_SHARES)


def is_for_people(name: str) -> bool:
  """Returns False for numbers that only programs compare, such as hashes."""
  return not name.endswith("_hash")


def number(name: str, value: float, digits: int = 5) -> str:
  """Returns the value of a metric as text, such as `65.7 %` or `0.91235`.

  Args:
    name: The metric.
    value: Its value.
    digits: Digits of a value that is no share.
  """
  return percent(value) if is_share(name) else f"{value:.{digits}g}"


def percent(share: float) -> str:
  """Returns a share of 1 in per cent with one decimal: `65.7 %`."""
  return f"{100 * share:.1f} %"
