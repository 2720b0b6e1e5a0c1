"""What people bring from elsewhere is answered with what it is called here."""

import pytest

from bit_jax.errors import InputError, UsageError
from bit_jax.recipe import load, words
from configs import ablation, common, distill, downstream, upstream, vtab

CONFIG = common.get_config()


def test_every_name_leads_to_a_key_that_exists():
  keys = words._flat(CONFIG)
  assert "optim.lr" in keys
  flags = [key for key in words._ELSEWHERE if key.startswith("--")]
  assert flags == ["--workdir", "--config"]
  for key, names in words._ELSEWHERE.items():
    assert key in keys or key in flags
    assert len(set(names)) == len(names)
  assert len(words._MEANT) == sum(map(len, words._ELSEWHERE.values()))
  assert set(words._LIKE) <= set(keys)


@pytest.mark.parametrize(
  ("key", "meant"),
  [
    ("learning_rate", "optim.lr"),
    ("lr", "optim.lr"),
    ("optim.learning_rate", "optim.lr"),
    ("training.LR", "optim.lr"),
    ("batch_size", "input.batch_size"),
    ("batch-size", "input.batch_size"),
    ("optim.batch_size", "input.batch_size"),
    ("per_device_eval_batch_size", "eval.batch_size"),
    ("steps", "total_steps"),
    ("max_steps", "total_steps"),
    ("weight_decay", "optim.weight_decay"),
    ("optm.lr", "optim.lr"),
    ("optim.momentun", "optim.momentum"),
    ("input.crop", "input.crop_px"),
    ("total_step", "total_steps"),
    ("model.name", "model.variant"),
    ("model.pretrained", "init.checkpoint"),
    ("checkpoint.keep_every", "checkpoint.keep_every_steps"),
    ("num_workers", "input.num_threads"),
    ("random_seed", "seed"),
    ("teacher", "distill.teacher"),
    ("gradient_checkpointing", "model.remat"),
  ],
)
def test_keys(key, meant):
  message = words.unknown_key(key, CONFIG)
  assert message.startswith(f"unknown config key {key}; did you mean {meant}")
  # Then the keys that stand beside it.
  section = meant.rpartition(".")[0]
  beside = CONFIG[section] if section else CONFIG
  for name in set(beside) - {"resolved"}:
    assert name in message.partition(" has ")[2]
  assert message.isprintable()


def test_keys_without_a_counterpart():
  said = words.unknown_key("optimizer", CONFIG)
  assert said.endswith("SGD with momentum, with the keys of config.optim")
  for key in ("optim.betas_of_adam", "optim.x"):
    assert words.unknown_key(key, CONFIG) == (
      f"unknown config key {key}; config.optim has "
      + ", ".join(sorted(CONFIG.optim))
    )
  said = words.unknown_key("frobnicate", CONFIG)
  assert "; config has checkpoint.*, data.*" in said
  said = words.unknown_key("output_dir", CONFIG)
  assert said.endswith("did you mean the flag --workdir?")
  said = words.unknown_key("epochs", CONFIG)
  assert "did you mean schedule.total, e.g. '10 epochs'? config.sch" in said


@pytest.mark.parametrize(
  ("override", "message"),
  [
    ("--config.learning_rate=1", "key learning_rate; did you mean optim.lr"),
    ("-config.learning_rate=1", "key learning_rate; did you mean optim.lr"),
    ("--noconfig.input.flips", "did you mean input.flip"),
    ("--config.optim.lr.x=1", "config.optim.lr is no section"),
    ("--config.optim=1", "--config.optim is a section.* has accum_steps, "),
    ("--config.optim.lr=high", "--config.optim.lr=high: expected a number"),
    ("--config.seed=1.5", "--config.seed=1.5: expected a whole number"),
    ("--config.input.flip=maybe", "=maybe: expected true or false"),
    ("--batch_size=4", "flag --batch_size; did you mean --config.input.batch_"),
    ("--epochs=4", "flag --epochs; did you mean --config.schedule.total"),
    ("--model=R50x1", "flag --model; did you mean --config=FILE:model=..."),
    ("--output_dir=x", "flag --output_dir; did you mean --workdir"),
    ("--frobnicate=x", "flag --frobnicate; see --help"),
  ],
)
def test_overrides(override, message):
  with pytest.raises(UsageError, match=message) as error:
    load.override(downstream.get_config(), ["--config.seed=1", override])
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("arg", "hint"),
  [
    ("modle=R50x1", "; did you mean model=R50x1?"),
    ("arch=R50x1", "; did you mean model=R50x1?"),
    ("presets=quick", "; did you mean preset=quick?"),
    ("data=digits", "; did you mean dataset=digits?"),
    ("data-set=digits", "; did you mean dataset=digits?"),
    ("shots=5", "; did you mean examples_per_class=5?"),
    ("lr=0.1", "; lr is set with --config.optim.lr=0.1"),
    ("batch_size=8", "; batch_size is set with --config.input.batch_size=8"),
    ("epochs=8", "; epochs is set with --config.schedule.total='10 epochs'"),
    ("seed=3", "; seed is set with --config.seed=3"),
    ("pretrained=X", "; pretrained is set with --config.init.checkpoint=X"),
    ("workdir=/x", "; did you mean --workdir=/x?"),
    ("optimizer=adam", "; the optimiser is SGD"),
    ("R50x1", "; did you mean model=R50x1?"),
    ("folder:photos", "; did you mean dataset=folder:photos?"),
    ("model", "; did you mean model=...?"),
  ],
)
def test_arguments(arg, hint):
  with pytest.raises(UsageError) as error:
    downstream.get_config(arg)
  assert hint in str(error.value)


def test_an_argument_of_another_config():
  with pytest.raises(UsageError, match="did you mean teacher=x"):
    distill.get_config("techer=x")
  with pytest.raises(UsageError, match="did you mean init=x"):
    vtab.get_study("pretrained=x")


@pytest.mark.parametrize(
  ("get", "arg", "message"),
  [
    (downstream.get_config, "preset=qick", "preset=qick: .*mean preset=quick"),
    (downstream.get_config, "preset=LIGHT", "did you mean preset=light"),
    (upstream.get_config, "preset=bit-m", "did you mean preset=bit_m"),
    (vtab.get_config, "task=dtdd", "did you mean task=dtd"),
    (vtab.get_config, "eval=tests", "did you mean eval=test"),
    (ablation.get_study, "study=norms", "did you mean study=norm"),
    (ablation.get_config, "run=gnws", "did you mean run=gn_ws"),
  ],
)
def test_values_of_arguments(get, arg, message):
  with pytest.raises(UsageError, match=message):
    get(arg)


@pytest.mark.parametrize(
  ("key", "value", "meant"),
  [
    ("objective", "distillation", "distill"),
    ("objective", "classification", "classify"),
    ("objective", "clasify", "classify"),
    ("loss", "cross_entropy", "softmax"),
    ("loss", "BCE", "sigmoid"),
    ("model.dtype", "bf16", "bfloat16"),
    ("model.norm", "BatchNorm", "bn"),
    ("model.remat", "units", "unit"),
    ("input.train", "random_resized_crop", "inception"),
    ("hyperrule", "papers", "paper"),
  ],
)
def test_values_of_keys(mesh, key, value, meant):
  from bit_jax.recipe import check

  config = downstream.get_config()
  config.update_from_flattened_dict({key: value})
  with pytest.raises(InputError, match=f"did you mean '{meant}'"):
    check.check(config, mesh)
