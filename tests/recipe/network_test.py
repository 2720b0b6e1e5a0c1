"""Without model=, the network is that of the weights."""

import json

import numpy as np
import pytest

from bit_jax import models, weights
from bit_jax.errors import InputError
from bit_jax.models import paths
from bit_jax.recipe import network, resolve
from bit_jax.weights import layouts, param_shapes, releases
from configs import downstream, kshot, upstream, vtab
from tests.recipe.resolve_test import CIFAR, IMAGENET

VARIANT = "R26x0.0625"


def make(checkpoint="", arg="", **overrides):
  config = downstream.get_config(arg)
  config.init.checkpoint = str(checkpoint)
  config.update_from_flattened_dict(overrides)
  return config


def of(config, **kw):
  """Returns (variant, norm, weight standardization) of a resolved config."""
  m = network.resolve(config, **kw).model
  return m.variant, m.norm, m.weight_standardization


def small_weights(variant=VARIANT, norm="gn", **options):
  shapes = param_shapes.abstract_params(variant, 3, norm)
  params = {k: np.zeros(x.shape, np.float32) for k, x in shapes.items()}
  options = models.non_default_options(
    {"norm": norm, "weight_standardization": True} | options
  )
  return weights.Weights(
    paths.unflatten(params), {}, variant, model_options=options
  )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """One network as the files and folders that people have."""
  root = tmp_path_factory.mktemp("weights")
  loaded = small_weights()
  weights.save_npz(root / "params.npz", loaded)
  weights.save_as(root / "official.npz", loaded, layouts.OFFICIAL)
  weights.save_as(root / "timm.safetensors", loaded, layouts.TIMM)
  snapshot = root / "models--google--bit" / "snapshots" / "0a1b"
  snapshot.mkdir(parents=True)
  weights.save_as(snapshot / "model.safetensors", loaded, layouts.HF)
  return root


@pytest.mark.parametrize(
  "name",
  ["params.npz", "official.npz", "timm.safetensors", "models--google--bit"],
)
def test_files_and_folders(folder, name):
  config = make(folder / name)
  assert of(config) == (VARIANT, "gn", True)
  # What others hold stays as it was.
  assert (config.model.variant, config.model.norm) == ("", "")


@pytest.mark.parametrize(
  ("release", "variant"),
  [
    ("BiT-M-R101x3", "R101x3"),
    ("vtab/BiT-M-R152x4-run0-dtd", "R152x4"),
    ("distill/R152x2_T_224", "R152x2"),
  ],
)
def test_releases_by_name_without_a_download(release, variant, monkeypatch):
  monkeypatch.setattr(releases, "fetch", lambda _: pytest.fail("downloads"))
  assert of(make(release)) == (variant, "gn", True)
  wrong = make(release, "model=R26x1")
  with pytest.raises(
    InputError,
    match=f"{release} holds {variant}, but config.model.variant='R26x1': "
    f"expected model={variant}, or no model=",
  ):
    network.resolve(wrong)
  with pytest.raises(InputError, match="norm='gn', but .* norm='bn'$"):
    network.resolve(make(release, **{"model.norm": "bn"}))


def test_options_of_the_weights(tmp_path):
  plain = tmp_path / "plain.npz"
  weights.save_npz(plain, small_weights(weight_standardization=False))
  bn = tmp_path / "bn.npz"
  weights.save_npz(bn, small_weights(norm="bn"))
  assert of(make(plain)) == (VARIANT, "gn", False)
  assert of(make(bn)) == (VARIANT, "bn", True)
  said = {"model.norm": "bn", "model.weight_standardization": True}
  assert of(make(bn, f"model={VARIANT}", **said)) == (VARIANT, "bn", True)
  # A named normalization says that of the standardization as well.
  for path, norm, message in (
    (plain, "gn", "with weight_standardization=False, but config.model has "),
    (bn, "gn", "with norm='bn', but config.model has norm='gn'$"),
    (plain, "bn", "with norm='gn', weight_standardization=False, but "),
  ):
    with pytest.raises(InputError, match=message):
      network.resolve(make(path, **{"model.norm": norm}))
  no_ws = {"model.weight_standardization": False}
  assert of(make(plain, **no_ws)) == (VARIANT, "gn", False)
  with pytest.raises(InputError, match="weight_standardization=True, but"):
    network.resolve(make(bn, **no_ws))


def test_without_weights_it_is_as_ever():
  for get_config in (downstream.get_config, upstream.get_config):
    assert of(get_config()) == ("R50x1", "gn", True)
    assert of(get_config("model=R14x0.5")) == ("R14x0.5", "gn", True)


def test_the_rule_sees_the_network_of_the_weights():
  # The paper's rule has another resolution for R152x4.
  sizes = [
    resolve.resolve(make(name), IMAGENET).resolved.crop_px
    for name in ("BiT-M-R152x4", "BiT-M-R152x2")
  ]
  assert sizes == [480, 384]
  config = resolve.resolve(make(), CIFAR)
  assert (config.model.variant, config.model.norm) == ("R50x1", "gn")


def test_weights_that_are_not_there():
  with pytest.raises(
    InputError, match="^config.init.checkpoint: weights /no/such.npz: no such"
  ):
    network.resolve(make("/no/such.npz", "model=R26x1"))
  missing = make("/no/such.npz", "model=R26x1")
  # A check before a run may take place elsewhere.
  assert of(missing, required=False) == ("R26x1", "gn", True)
  with pytest.raises(InputError, match="/no/such.npz"):
    network.resolve(make("/no/such.npz"), required=False)
  with pytest.raises(InputError, match="there is a release called BiT-M-R50x1"):
    network.resolve(make("BiT-M-R50x1.npz"))


def test_an_objective_may_bring_a_network_of_its_own(folder):
  named = make(folder / "params.npz", "model=R14x0.25")
  assert of(named, check=False) == ("R14x0.25", "gn", True)


def stored(config):
  return json.loads(network.resolve(config).to_json())


def test_a_run_goes_on_after_its_weights_are_gone(tmp_path):
  path = tmp_path / "x.npz"
  weights.save_npz(path, small_weights(weight_standardization=False))
  before = stored(make(path))
  path.unlink()
  assert of(make(path), stored=before) == (VARIANT, "gn", False)
  # A wrong model= is compared with the run like any other key.
  named = make(path, "model=R14x0.25")
  assert of(named, stored=before)[0] == "R14x0.25"


def test_other_weights_than_those_of_the_run(folder):
  before = stored(make("BiT-M-R50x1"))
  now = make(folder / "params.npz")
  assert of(now, stored=before)[0] == VARIANT
  gone = make("/no/such.npz", "model=R26x1")
  assert of(gone, stored=before) == ("R26x1", "gn", True)
  # Without weights, no model= means what it says, whatever the run has.
  before = stored(make(arg="model=R14x0.5"))
  assert of(make(), stored=before)[0] == "R50x1"


def test_studies_name_the_network_of_the_weights(folder):
  path = folder / "params.npz"
  assert vtab.get_study(f"init={path}").title.startswith(f"VTAB-1k: {VARIANT}")
  study = kshot.get_study(f"init={path},scratch=1,samples=1")
  assert study.title.startswith(VARIANT)
  # From scratch it is the same network.
  assert {run.config.model.variant for run in study.runs} == {VARIANT}
  assert "R50x1" in kshot.get_study("init=/no/such.npz").title
  assert "R26x1" in kshot.get_study("init=/no/such.npz,model=R26x1").title
