import pytest

from bit_jax.errors import InputError, UsageError
from bit_jax.recipe import check
from configs import downstream, upstream


def test_recipes_are_valid(mesh):
  for preset in downstream.PRESETS:
    check.check(downstream.get_config(f"preset={preset}"), mesh)
  for preset in upstream.PRESETS:
    check.check(upstream.get_config(f"preset={preset}"), mesh)


@pytest.mark.parametrize(
  ("key", "value", "message"),
  [
    ("input.batch_size", 0, "batch_size=0: expected 1 or more"),
    ("input.batch_size", 6, "batch_size=6: .* number of devices, 4"),
    ("eval.batch_size", 6, "eval.batch_size=6: .* number of devices, 4"),
    ("eval.batch_size", -4, "eval.batch_size=-4: expected 0 or more"),
    ("model.variant", "R51x1", "model 'R51x1' is unknown"),
    ("model.dtype", "float16", "dtype='float16': expected one of"),
    ("model.norm", "ln", "norm='ln': expected one of 'gn', 'bn'"),
    ("model.batch_group", 3, "batch_group=3: expected a divisor of"),
    ("loss", "hinge", "config.loss='hinge': expected one of 'softmax'"),
    ("hyperrule", "papers", "hyperrule='papers': expected one of"),
    ("input.train", "x", "input.train='x': expected one of 'hyperrule'"),
    ("input.eval", "x", "input.eval='x': expected one of 'square'"),
    ("seed", -1, "seed=-1: expected 0"),
    ("seed", 2**31, "expected less than"),
    ("total_steps", -1, "total_steps=-1"),
    ("log_every_steps", -1, "log_every_steps=-1: expected 0"),
    ("checkpoint.keep", 0, "checkpoint.keep=0: expected 1"),
    ("checkpoint.keep_every_steps", -1, "keep_every_steps=-1"),
    ("optim.accum_steps", 3, "accum_steps=3: expected a divisor of the 128"),
    ("checkpoint.every_steps", -3, "every_steps=-3"),
    ("data.examples_per_class", -1, "examples_per_class=-1"),
    ("data.name", "", "data.name is empty"),
    ("input.crop_px", -5, "crop_px=-5"),
    ("input.num_threads", -2, "num_threads=-2"),
    ("optim.momentum", float("nan"), "momentum=nan"),
    ("optim.momentum", 1.0, "momentum=1.0: expected less than 1"),
    ("optim.lr", -0.1, "lr=-0.1"),
    ("optim.freeze", ("root[",), r"'root\[' is no regular expression"),
  ],
)
def test_bad_values(mesh, key, value, message):
  config = downstream.get_config()
  config.update_from_flattened_dict({key: value})
  with pytest.raises(InputError, match=message) as error:
    check.check(config, mesh)
  assert "\n" not in str(error.value)


def test_products_cannot_be_set_by_hand(mesh):
  config = downstream.get_config()
  config.resolved.total_steps = 7
  with pytest.raises(UsageError, match="cannot be set"):
    check.check(config, mesh)


def test_parts_of_a_batch_have_statistics_of_their_own(mesh):
  config = downstream.get_config()
  config.optim.accum_steps, config.model.norm = 2, "bn"
  with pytest.raises(InputError, match=r"accum_steps=2 gives other statistics"):
    check.check(config, mesh)
