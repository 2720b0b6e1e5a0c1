"""One step of every recipe: config, rules, data, update, evaluation."""

import pytest

from bit_jax import train, weights
from configs import ablation, downstream, kshot, reproduction, upstream, vtab

SMALL = "model=R14x0.0625,dataset=digits"
CONFIGS = {
  **{
    f"upstream {preset}": upstream.get_config(f"preset={preset},{SMALL}")
    for preset in upstream.PRESETS
  },
  **{
    f"downstream {preset}": downstream.get_config(f"preset={preset},{SMALL}")
    for preset in downstream.PRESETS
  },
  **{
    f"ablation {norm}": ablation.get_config(f"study=norm,run={norm},{SMALL}")
    for norm in ablation.NORMS
  },
}


@pytest.mark.parametrize("name", CONFIGS)
def test_one_step(name, tmp_path):
  config = CONFIGS[name].copy_and_resolve_references()
  config.total_steps = 1
  config.input.batch_size = 8
  config.data.eval_splits = "test[:8]"
  result = train.train_and_evaluate(config, tmp_path)
  assert result["step"] == 1
  assert 0 <= result["eval/test[:8]/accuracy"] <= 1
  saved = weights.load(tmp_path)
  assert (saved.variant, saved.num_classes) == ("R14x0.0625", 10)


def test_every_config_builds():
  for task in vtab.TASKS:
    assert vtab.get_config(f"task={task}").num_classes
  studies = [kshot.get_study(), reproduction.get_study()]
  studies += [ablation.get_study(f"study={s}") for s in ablation.STUDIES]
  for study in studies:
    assert len({run.name for run in study.runs}) == len(study.runs)
