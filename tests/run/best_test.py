import dataclasses

import pytest
from etils import epath

from bit_jax.errors import InputError
from bit_jax.run import best
from bit_jax.run.best import Best
from bit_jax.storage import checkpoint
from tests.fakes import make_config

KEY = "eval/val/accuracy"


def chosen(keep_best="val/accuracy", **overrides):
  return make_config(
    **{
      "checkpoint.keep_best": keep_best,
      "eval.every_steps": 2,
      **overrides,
    }
  )


def updates(metric, values):
  """Returns a Best after evaluations, and which of them were the best."""
  found = Best(metric)
  return found, [found.update(i, {metric: v}) for i, v in enumerate(values, 1)]


def test_the_first_of_the_highest_is_the_best():
  found, was_best = updates(KEY, [0.5, 0.7, 0.7, 0.6])
  assert was_best == [True, True, False, False]
  assert (found.step, found.value, found.worse) == (2, 0.7, 2)
  assert found.scores == {KEY: 0.7}


@pytest.mark.parametrize("name", ["loss", "soft_loss", "median_error"])
def test_of_a_loss_the_lowest_is_the_best(name):
  found, _ = updates(f"eval/val/{name}", [2.0, 1.0, 3.0])
  assert (found.step, found.worse) == (2, 1)


def test_an_evaluation_that_is_made_again_counts_once():
  found, _ = updates(KEY, [0.5, 0.7])
  before = dataclasses.asdict(found)
  assert not found.update(2, {KEY: 0.7})
  assert dataclasses.asdict(found) == before


def test_a_metric_that_is_not_there():
  with pytest.raises(
    InputError,
    match="keep_best=val/acuracy: there is no such metric; expected one of "
    "val/accuracy, val/loss",
  ):
    Best("eval/val/acuracy").update(
      2, {KEY: 0.1, "eval/val/loss": 1.0, "eval/val/examples": 3}
    )


@pytest.mark.parametrize(
  ("config", "evals", "message"),
  [
    (chosen("test/accuracy"), ["test"], "a test split says nothing new"),
    (chosen("test[:50%]/loss"), ["test[:50%]"], "a test split"),
    (chosen("val+test/loss"), ["val+test"], "a test split"),
    (chosen("Test_set/loss"), ["Test_set"], "a test split"),
    (chosen("fewshot_digits/5shot_accuracy"), ["val"], "no evaluation split"),
    (chosen("val/accuracy"), ["test"], "val is no evaluation split; .* test"),
    (chosen("val/accuracy"), [], "expected one of none yet, or choose by a"),
    (chosen("accuracy"), ["val"], "expected SPLIT/METRIC, such as"),
    (chosen("val/"), ["val"], "expected SPLIT/METRIC"),
    (chosen(**{"eval.every_steps": 0}), ["val"], "needs config.eval.every_st"),
    (
      chosen("train[90%:]/accuracy"),
      ["train[90%:]"],
      r"is trained on; choose by a part of train: .*train_split='train\[:90%\]"
      r"' --config.data.eval_splits='train\[90%:\],test'",
    ),
    (
      chosen("train[90%:]/accuracy", **{"data.name": "folder:/x"}),
      ["train[90%:]"],
      "only some of the classes.*folders train, val and test",
    ),
    (
      chosen("", **{"eval.early_stop_evals": 3}),
      ["val"],
      "eval.early_stop_evals=3 needs config.checkpoint.keep_best",
    ),
    (
      chosen("", **{"checkpoint.best_params": True}),
      ["val"],
      "best_params=True needs",
    ),
  ],
)
def test_what_cannot_choose_is_refused(config, evals, message):
  with pytest.raises(InputError, match=message) as error:
    best.check(config, evals)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("config", "evals"),
  [
    (chosen(), ["test", "val"]),
    (chosen("eval/val/loss"), ["val"]),
    (
      chosen("train[90%:]/loss", **{"data.train_split": "train[:90%]"}),
      ["train[90%:]", "test"],
    ),
    # No word of a test: the split of a set about protests.
    (chosen("protests/loss"), ["protests"]),
    (chosen(""), ["test"]),
  ],
)
def test_what_can_choose(config, evals):
  best.check(config, evals)


def test_a_run_goes_on_with_what_it_knew(tmp_path, monkeypatch):
  known = Best(KEY, 2, 0.7, 1, {KEY: 0.7})
  saved = checkpoint.Saved({"best": dataclasses.asdict(known)}, {}, (), {})
  monkeypatch.setattr(checkpoint, "read_saved", lambda path: saved)
  folder = epath.Path(tmp_path)
  (folder / "2").mkdir()
  assert best.of_checkpoint(chosen(), folder, 4) == known
  # Another metric, or a state that is gone, is no measure.
  fresh = best.of_checkpoint(chosen("val/loss"), folder, 4)
  assert fresh == Best("eval/val/loss")
  (folder / "2").rmdir()
  assert best.of_checkpoint(chosen(), folder, 4) == Best(KEY)
  assert best.of_checkpoint(chosen(), folder, 0) == Best(KEY)
  assert best.of_checkpoint(chosen(""), folder, 4) is None
