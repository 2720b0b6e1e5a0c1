"""The interface of all that takes the metrics of a run.

It is that of `clu.metric_writers`, whose own writers import TensorFlow.
"""

from collections.abc import Mapping
from typing import Any, SupportsFloat

from absl import logging

from bit_jax.errors import InputError


class MetricWriter:
  """The interface; by itself it ignores all that is written to it.

  A subclass overrides what it can show. Steps count finished updates. Scalars
  may be Python, NumPy or JAX numbers; reading a JAX one waits for the device.
  """

  def write_scalars(
    self, step: int, scalars: Mapping[str, SupportsFloat]
  ) -> None:
    """Writes metrics such as {"train/loss": 6.9} of one step."""

  def progress(self, step: int) -> None:
    """Tells of a finished step of which no metrics are written."""

  def flush(self) -> None:
    """Lets what was written be seen soon by others; does not wait for it."""

  def close(self) -> None:
    """Completes what was written; nothing may be written after.

    Raises:
      InputError: the work directory, in an object store, cannot be written to.
    """

  def __enter__(self) -> "MetricWriter":
    return self

  def __exit__(self, exc_type: Any, *_: Any) -> None:
    try:
      self.close()
    except InputError as error:
      if exc_type is None:
        raise
      # What ends the run says more: a stop on request, say, has its own code.
      logging.warning("%s", error)
