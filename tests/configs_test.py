import pytest

from bit_jax.errors import UsageError
from bit_jax.recipe import load
from configs import common, downstream, upstream


def test_arguments():
  config = downstream.get_config(
    "preset=light,model=R101x1,dataset=folder:/a b/c:d=e,data_dir=/x,"
    "examples_per_class=5"
  )
  assert config.model.variant == "R101x1"
  assert config.data.name == "folder:/a b/c:d=e"
  assert config.data.dir == "/x"
  assert config.data.examples_per_class == 5
  assert config.input.batch_size == 128


@pytest.mark.parametrize("module", [upstream, downstream])
@pytest.mark.parametrize("arg", [None, ""])
def test_all_arguments_have_defaults(module, arg):
  config = module.get_config(arg)
  assert config.data.name
  assert set(config) == set(common.get_config())


@pytest.mark.parametrize("preset", upstream.PRESETS)
def test_a_preset_can_have_another_data_set(preset):
  own = upstream.get_config(f"preset={preset}")
  other = upstream.get_config(f"preset={preset},dataset=digits")
  assert other.data.name == "digits"
  own.data.name = "digits"
  assert own.to_json() == other.to_json()


@pytest.mark.parametrize("module", [upstream, downstream])
@pytest.mark.parametrize(
  "arg", ["modle=R50x1", "preset", "model=R50x1,model=R50x1", "R50x1"]
)
def test_unknown_arguments(module, arg):
  with pytest.raises(UsageError, match=r"config argument .*preset=\.\.\."):
    module.get_config(arg)


@pytest.mark.parametrize(
  ("arg", "flag"),
  [
    ("dataset=folder:/a,b", "--config.data.name='folder:/a,b' instead"),
    ("data_dir=/a,b/c,model=R50x1", "--config.data.dir='/a,b/c' instead"),
  ],
)
def test_a_comma_in_a_path(arg, flag):
  with pytest.raises(UsageError, match="config argument 'b.*") as error:
    downstream.get_config(arg)
  assert flag in str(error.value)
  # And this is true.
  config = downstream.get_config()
  load.override(config, [flag.split()[0].replace("'", "")])
  assert "a,b" in config.to_json()


def test_argument_of_the_wrong_type():
  with pytest.raises(UsageError, match="expected examples_per_class=<int>"):
    downstream.get_config("examples_per_class=five")


@pytest.mark.parametrize("module", [upstream, downstream])
def test_unknown_preset(module):
  with pytest.raises(UsageError, match="preset=tiny: expected one of"):
    module.get_config("preset=tiny")
