import math

import pytest
from etils import epath

from bit_jax.errors import InputError
from bit_jax.run import upkeep


@pytest.mark.parametrize(
  ("scalars", "message"),
  [
    (
      {"loss": math.nan, "grad_norm": 1.0},
      "^loss is nan at step 3; the run has stopped, the last good checkpoint "
      "is none yet. A lower config.optim.lr",
    ),
    (
      {"eval/test/accuracy": 0.1, "eval/test/loss": math.inf},
      "^eval/test/loss is inf at step 3; the run has stopped, the last "
      "checkpoint is none yet. A lower config.optim.lr",
    ),
    (
      {"eval/test/map": math.nan, "eval/test/loss": 0.1},
      "^eval/test/map is nan at step 3; .* The losses are finite: this metric "
      "has no value for these examples",
    ),
  ],
)
def test_what_a_number_that_is_not_finite_means(tmp_path, scalars, message):
  with pytest.raises(InputError, match=message):
    upkeep._check_finite(scalars, 3, epath.Path(tmp_path))
  upkeep._check_finite({"loss": 1.0}, 3, epath.Path(tmp_path))
