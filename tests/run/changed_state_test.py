import dataclasses

import jax
import numpy as np
import pytest
from etils import epath

from bit_jax.errors import InputError
from bit_jax.recipe import resolve
from bit_jax.run import changed_state, first_state, step
from bit_jax.run.workdir_files import RunFiles, differences
from bit_jax.storage import checkpoint
from tests import fakes

PATH = epath.Path("/w/checkpoints/5")


def abstract(mesh, num_classes=4, **overrides):
  config = fakes.resolved(fakes.make_config(**overrides), num_classes)
  return config, step.make_abstract_state(fakes.spec(config, mesh))


def saved_as(config, state, class_names=()):
  names = checkpoint.digest.names(state)
  shapes = {
    name: x.shape for name, x in zip(names, jax.tree.leaves(state), strict=True)
  }
  metadata = {"config": config.to_dict(), "class_names": class_names}
  return checkpoint.Saved(metadata, {}, frozenset(), shapes)


def fits(mesh, old, new, old_names=(), new_names=()):
  """Returns whether a state of one config fits another's."""
  old_config, state = abstract(mesh, **old)
  new_config, wanted = abstract(mesh, **new)
  changes = differences(old_config.to_dict(), new_config.to_dict())
  saved = saved_as(old_config, state, old_names)
  return changed_state.fits(PATH, saved, wanted, changes, new_names)


@pytest.mark.parametrize(
  ("new", "message"),
  [
    (
      {"model.variant": "R14x0.125"},
      "is of another model than the config .model.variant: 'R14x0.0625' -> "
      "'R14x0.125'.; use another --workdir$",
    ),
    (
      {"num_classes": 3},
      r"another number of classes than the data \(4 -> 3; gone: d\), which "
      r"resume_changed=true cannot change; use another --workdir, with "
      r"--config.init.checkpoint=/w/checkpoints/5 to",
    ),
    (
      {"model.norm": "bn", "model.batch_group": 2},
      r"is of another network than the config \(model.batch_group.*; "
      r"model.norm: 'gn' -> 'bn'\): .* and \d+ more differs",
    ),
  ],
)
def test_another_network_is_told_in_words(one_device, new, message):
  names = ("a", "b", "c", "d")
  now = names[: new.get("num_classes", 4)]
  with pytest.raises(InputError, match=message) as error:
    fits(one_device, {}, new, names, now)
  assert not isinstance(error.value, checkpoint.DamagedError)


@pytest.mark.parametrize(
  ("old", "new", "expected"),
  [
    ({}, {"optim.lr": 0.5, "seed": 3}, True),
    ({}, {"optim.weight_decay": 0.3}, True),
    ({}, {"optim.freeze": ("block1/.*",)}, False),
    ({"optim.freeze": ("block1/.*",)}, {}, False),
    ({}, {"optim.decoupled": True}, False),
  ],
)
def test_what_changes_the_optimiser_alone(one_device, old, new, expected):
  assert fits(one_device, old, new) is expected


def test_arrays_of_an_unchanged_config_are_left_to_the_check_for_damage(
  one_device,
):
  config, state = abstract(one_device)
  saved = saved_as(config, state)
  del saved.shapes["params/head/bias"]
  assert changed_state.fits(PATH, saved, state, [])


@pytest.mark.parametrize(
  ("old", "new", "kept"),
  [
    ({}, {"optim.decoupled": True}, 1.0),
    ({}, {"optim.freeze": ("block1/.*",)}, 1.0),
    ({"optim.freeze": ("root_block/.*",)}, {}, 0.0),
  ],
)
def test_momentum_is_carried_over_to_another_optimiser(
  tmp_path, mesh, old, new, kept
):
  config, like = abstract(mesh, **old)
  state = jax.tree.map(
    lambda x: jax.device_put(np.ones(x.shape, x.dtype), x.sharding), like
  )
  saved_by = RunFiles(tmp_path, config)
  metadata = saved_by.metadata((), resolve.eval_preprocess(config))
  with checkpoint.Checkpointer(tmp_path / "c", keep=1) as writer:
    writer.save(3, dataclasses.replace(state, step=state.step * 3), metadata)
  config, wanted = abstract(mesh, resume_changed=True, **new)
  lines = []
  number, restored = first_state.load(
    epath.Path(tmp_path / "c"),
    fakes.spec(config, mesh),
    config,
    RunFiles(tmp_path, config),
    lines.append,
  )
  assert number == restored.step == 3
  jax.tree.map(lambda x, y: x.shape == y.shape, restored, wanted)
  assert [line for line in lines if "begins at 0" in line]
  names = checkpoint.digest.names(restored)
  values = dict(zip(names, jax.tree.leaves(restored), strict=True))
  for name, value in values.items():
    if "trace/root_block/" in name:
      np.testing.assert_array_equal(value, kept)
    elif name != "step":
      np.testing.assert_array_equal(value, 1)
