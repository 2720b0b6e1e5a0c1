import pytest

from bit_jax.errors import InputError, StoppedError
from bit_jax.writers.base import MetricWriter


def test_metric_writer_accepts_and_ignores_everything():
  ignore = MetricWriter()
  ignore.write_scalars(1, {"train/loss": 1.0})
  ignore.flush()
  ignore.close()


class Broken(MetricWriter):
  def close(self):
    raise InputError("gs://b: cannot be written to")


def test_a_close_that_fails_hides_no_other_error():
  with pytest.raises(InputError, match="gs://b"), Broken():
    pass
  with pytest.raises(StoppedError), Broken():
    raise StoppedError("stopped after step 3")
