import types

import numpy as np
import pytest

from bit_jax import train
from bit_jax.evaluate import fewshot
from bit_jax.recipe import load
from bit_jax.run import upkeep

PARAMS = {"root": {"kernel": 0}, "block1": {"kernel": 0}, "head": {"bias": 0}}


@pytest.mark.parametrize(
  ("frozen", "batch_stats", "fixed"),
  [
    (["root/", "block"], {}, True),
    (["root", "block", "head"], {}, True),
    (["root"], {}, False),
    ([], {}, False),
    (["root", "block"], {"mean": np.zeros(1)}, False),
  ],
)
def test_features_are_fixed_where_all_before_the_head_is(
  frozen, batch_stats, fixed
):
  state = types.SimpleNamespace(params=PARAMS, batch_stats=batch_stats)
  assert upkeep.has_fixed_features(state, frozen) == fixed


@pytest.mark.parametrize(
  ("frozen", "calls"), [("('(?!head/)',)", 1), ("('root_block/',)", 2)]
)
def test_a_frozen_network_is_probed_once(tmp_path, monkeypatch, frozen, calls):
  probed = []

  def evaluate_few_shot(*args, **_):
    probed.append(args)
    return {"1shot_accuracy": len(probed) / 4}

  monkeypatch.setattr(fewshot, "evaluate_few_shot", evaluate_few_shot)
  config = load.load_config(
    "configs/downstream.py:preset=quick,model=R14x0.25,dataset=digits",
    [
      *("--config.total_steps=2", "--config.input.batch_size=8"),
      *("--config.data.eval_splits=test[:8]", "--config.eval.every_steps=1"),
      *("--config.eval.fewshot=digits", f"--config.optim.freeze={frozen}"),
    ],
  )
  result = train.train_and_evaluate(config, tmp_path)
  assert len(probed) == calls
  assert result["eval/fewshot_digits/1shot_accuracy"] == calls / 4
