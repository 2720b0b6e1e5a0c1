"""The interface of metric writers.

It is that of `clu.metric_writers`, whose own writers import TensorFlow.
"""

from collections.abc import Mapping
from typing import Any, SupportsFloat

from absl import logging

from bit_jax.errors import InputError, UnavailableError


class MetricWriter:
  """A writer that does nothing; subclasses override what they support.

  Steps count finished updates. Scalars may be Python, NumPy or JAX numbers;
  reading a JAX one waits for the device.
  """

  def write_scalars(
    self, step: int, scalars: Mapping[str, SupportsFloat]
  ) -> None:
    """Writes the metrics of a step, such as {"train/loss": 6.9}."""

  def progress(self, step: int) -> None:
    """Reports a finished step without metrics."""

  def flush(self) -> None:
    """Makes earlier writes visible to readers soon; does not wait for it."""

  def close(self) -> None:
    """Completes all writes; nothing may be written afterwards.

    Raises:
      InputError: The work directory is in an object store and cannot be written
        to.
      UnavailableError: Likewise, for a reason that may pass.
    """

  def __enter__(self) -> "MetricWriter":
    return self

  def __exit__(self, exc_type: Any, *_: Any) -> None:
    try:
      self.close()
    except (InputError, UnavailableError) as error:
      if exc_type is None:
        raise
      # The exception that ends the run matters more: a requested stop, for
      # example, has an exit code of its own.
      logging.warning("%s", error)
