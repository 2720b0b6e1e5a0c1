"""Keeps in mind which evaluation of a run was the best, and when to end early.

`config.checkpoint.keep_best` names a metric of an evaluation split. What is
known of it is saved with each checkpoint, so that a run that is resumed decides
as one that was not. A checkpoint is saved before its own step is evaluated, or
because that evaluation was the best.
"""

import dataclasses
import re
from collections.abc import Collection, Mapping

from etils import epath

from bit_jax.data.sets import layout
from bit_jax.errors import InputError, some
from bit_jax.recipe.load import Config
from bit_jax.storage import checkpoint, remote

# Of these, a lower value is better.
_LOWER = ("loss", "error")
_KEY = "config.checkpoint.keep_best"


@dataclasses.dataclass
class Best:
  """The best evaluation so far.

  Attributes:
    metric: Its name in metrics.jsonl, such as `eval/validation/accuracy`.
    step: The step of the best value; 0 before the first evaluation.
    value: The best value.
    worse: Number of evaluations since without a better one.
    scores: All metrics of the evaluation at `step`.
  """

  metric: str
  step: int = 0
  value: float = 0.0
  worse: int = 0
  scores: dict[str, float] = dataclasses.field(default_factory=dict)

  def update(self, step: int, scores: Mapping[str, float]) -> bool:
    """Takes an evaluation into account; returns True if it is the best.

    Of equal ones the first is the best. One that is made again, because a run
    was stopped after it, changes nothing.

    Raises:
      InputError: The metric is not among them.
    """
    if self.metric not in scores:
      names = sorted(
        k.removeprefix("eval/") for k in scores if not k.endswith("/examples")
      )
      raise InputError(
        f"{_KEY}={self.metric.removeprefix('eval/')}: there is no such metric; "
        f"expected one of {', '.join(names)}"
      )
    if step == self.step:
      return False
    value = scores[self.metric]
    is_better = (
      value < self.value if self.metric.endswith(_LOWER) else value > self.value
    )
    if self.step and not is_better:
      self.worse += 1
      return False
    self.step, self.value, self.worse = step, value, 0
    self.scores = dict(scores)
    return True


def of_checkpoint(config: Config, folder: epath.Path, step: int) -> Best | None:
  """Returns what a run knows of its best evaluation when it goes on.

  Args:
    config: Checked.
    folder: WORKDIR/checkpoints.
    step: The step whose checkpoint it goes on from; 0 for none.

  Returns:
    None if the best state is not to be kept.
  """
  if not config.checkpoint.keep_best:
    return None
  fresh = Best(_metric(config))
  if not step:
    return fresh
  found = checkpoint.read_saved(folder / str(step)).metadata.get("best") or {}
  # Another metric, or a state that is gone, is no measure any more.
  if found.get("metric") != fresh.metric or (
    found["step"] and not remote.exists(folder / str(found["step"]))
  ):
    return fresh
  return Best(**found)


def check(config: Config, evals: Collection[str]) -> None:
  """Checks the keys about the best state against the evaluation splits.

  Raises:
    InputError: They do not fit each other, or the split is a test split or one
      that is trained on.
  """
  given = config.checkpoint.keep_best
  if not given:
    for key, value in (
      ("eval.early_stop_evals", config.eval.early_stop_evals),
      ("checkpoint.best_params", config.checkpoint.best_params),
    ):
      if value:
        raise InputError(
          f"config.{key}={value} needs {_KEY}, a metric of an evaluation "
          f"split, such as validation/accuracy"
        )
    return
  if not config.eval.every_steps:
    raise InputError(
      f"{_KEY}={given} needs config.eval.every_steps: without, only the last "
      f"state is evaluated"
    )
  split, _, name = _metric(config).removeprefix("eval/").rpartition("/")
  if not split or not name:
    raise InputError(
      f"{_KEY}={given}: expected SPLIT/METRIC, such as validation/accuracy"
    )
  bases = [re.split(r"\[", part.strip())[0] for part in split.split("+")]
  if any("test" in _words(base) for base in bases):
    raise InputError(
      f"{_KEY}={given}: a test split says nothing new any more once the best "
      f"state is chosen by it; {_advice(config)}"
    )
  if split not in evals:
    raise InputError(
      f"{_KEY}={given}: {split} is no evaluation split; expected one of "
      f"{some(evals) or 'none yet'}, or {_advice(config)}"
    )
  if "train" not in bases:
    return
  if config.data.name.startswith("folder:"):
    raise InputError(
      f"{_KEY}={given}: a part of a folder's train has only some of the "
      f"classes, as its images are in their order; {_advice(config)}"
    )
  trained = config.data.train_split or "train"
  if re.fullmatch(r"\s*train\s*", trained):
    raise InputError(
      f"{_KEY}={given}: {split} is trained on; {_advice(config)}"
    )


def _metric(config: Config) -> str:
  return f"eval/{config.checkpoint.keep_best.strip().removeprefix('eval/')}"


def _words(split: str) -> set[str]:
  """Returns the words in a split's name, and the split that it means."""
  found = layout.split_of(split)
  return {*re.split(r"[\W_\d]+", split.casefold()), found[0] if found else ""}


def _advice(config: Config) -> str:
  """Returns how to have a split to choose by."""
  if config.data.name.startswith("folder:"):
    return (
      "choose by other images: folders train, val and test, each with the "
      "classes, --config.data.eval_splits=val,test and "
      "--config.checkpoint.keep_best=val/accuracy"
    )
  return (
    "choose by a part of train: --config.data.train_split='train[:90%]' "
    "--config.data.eval_splits='train[90%:],test' "
    "--config.checkpoint.keep_best='train[90%:]/accuracy'"
  )
