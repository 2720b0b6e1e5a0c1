"""The interface of an objective: what a run learns, and how it is judged.

The training loop, the update step, the data pipeline and the evaluation know
nothing of labels, losses or heads; all of that is an objective's. `classify` is
the one of BiT's recipes; `distill` adds a teacher to it.
"""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from bit_jax import models
from bit_jax.models import init

# {name: array [rows, ...]}; {stream: {name: array}} where there are several.
Batch = Mapping[str, Any]


class Aux(NamedTuple):
  """Second result of a loss.

  Attributes:
    scalars: Numbers to log beside the loss, means over the rows.
    carried: The new value of what changes without a gradient.
  """

  scalars: Mapping[str, jax.Array]
  carried: Any


class Scores(NamedTuple):
  """Contribution of one evaluation batch to the metrics of its split.

  Attributes:
    sums: Scalars summed over the rows whose `mask` is 1, but not `examples`,
      which the evaluation counts.
    rows: Arrays [rows, ...], one entry for each row of the batch; `index` and
      `mask` are the evaluation's.
  """

  sums: Mapping[str, jax.Array]
  rows: Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Objective(abc.ABC):
  """What a run learns.

  Subclasses are frozen dataclasses of static, hashable values (networks,
  counts, weights of terms). Arrays reach them as arguments, so that runs that
  differ in arrays alone share a compiled step. All methods but `summarize`
  and `shortcoming` are called inside jit, in the view of the global batch.

  Attributes:
    network: A Flax module, called with float[N, H, W, 3] images in [-1, 1] and
      `train`. Its parameters are those of the train state.
  """

  network: Any

  @abc.abstractmethod
  def batch_spec(self, rows: int, image_px: int) -> dict[str, Any]:
    """Returns the batch that `prepare` takes, as jax.ShapeDtypeStruct."""

  def init(self, rng: jax.Array) -> tuple[Any, Any]:
    """Returns (params, carried) to start from, drawn from a key."""
    variables = dict(init.init_variables(self.network, rng))
    return variables.pop("params"), variables

  def fold(self, params: Any) -> Any:
    """Does to parameters once per step what no part of a batch need repeat.

    By default the weight standardization; differentiated with the loss.
    """
    return models.fold(self.network, params)[1]

  @abc.abstractmethod
  def prepare(self, batch: Batch, rng: jax.Array) -> Batch:
    """Scales and mixes the global batch, before accumulation splits its rows.

    Args:
      batch: Arrays of the data pipeline: uint8 `images`, fields, `index`.
      rng: The key of the step.

    Returns:
      Arrays [rows, ...] for `loss`.
    """

  @abc.abstractmethod
  def loss(
    self, params: Any, carried: Any, batch: Batch, fixed: Any, rng: jax.Array
  ) -> tuple[jax.Array, Aux]:
    """Returns the mean loss over the rows of a part of the batch.

    Args:
      params: Folded parameters, for `models.unstandardized(self.network)`; the
        loss is differentiated in them.
      carried: State that changes without a gradient, a dict; its `batch_stats`
        are the running statistics of the network.
      batch: What `prepare` returned, or some of its rows.
      fixed: Arrays that never change, such as the weights of a teacher.
      rng: A key of the step and the part.
    """

  @abc.abstractmethod
  def score(
    self, params: Any, carried: Any, batch: Batch, fixed: Any
  ) -> Scores:
    """Judges one evaluation batch.

    Args:
      params: Folded parameters.
      carried: As in the train state.
      batch: As for `prepare`, and `mask` float32[rows]: 0 marks rows that only
        fill the last batch up.
      fixed: As for `loss`.
    """

  def shortcoming(self, scalars: Mapping[str, float]) -> str:
    """Says at the end of a run if it has not yet learned its training examples.

    Args:
      scalars: What training logs (`loss` and the scalars of `Aux`), the means
        over the last tenth of the steps.

    Returns:
      A clause that names the number, or ''. By default nothing is judged.
    """
    del scalars
    return ""

  @abc.abstractmethod
  def summarize(
    self, sums: Mapping[str, float], rows: Mapping[str, np.ndarray]
  ) -> dict[str, float]:
    """Turns the totals of a split into its metrics; runs on the host.

    Leave out what has no value, such as the precision of a class that is not
    there: a number that is not finite ends the run.

    Args:
      sums: The sums of all batches in float64, and `examples`, their number.
      rows: The rows of all examples, in the order of the split.
    """
