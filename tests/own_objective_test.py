"""A user's own objective, network, data and config, from elsewhere."""

import dataclasses
import json
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bit_jax import models, train, weights
from bit_jax.errors import InputError
from bit_jax.models import init, paths
from bit_jax.objectives.classify import Classify
from bit_jax.objectives.objective import Aux, Objective, Scores
from bit_jax.recipe import load
from bit_jax.run.sources import RunData
from tests import fakes

CONFIG = f"""
from configs import downstream

def get_config(arg=None):
  c = downstream.get_config("preset=quick,model={fakes.MODEL}")
  c.data.name = "stripes"
  c.input.batch_size = 8
  c.total_steps = 6
  c.log_every_steps = 1
  c.optim.lr = 0.05
  c.optim.weight_decay = 1e-4
  return c
"""


class ColourHead(nn.Module):
  """A convolution on normalized features, with initial values of its own."""

  @nn.compact
  def __call__(self, features):
    x = nn.LayerNorm(name="norm")(features.astype(jnp.float32))
    return nn.Conv(
      3,
      (3, 3),
      kernel_init=nn.initializers.normal(0.01),
      bias_init=nn.initializers.constant(0.5),
      name="out",
    )(x)


class Colours(nn.Module):
  """BiT's encoder with a convolutional head beside the classifier's."""

  encoder: nn.Module

  def setup(self):
    nn.share_scope(self, self.encoder)

  @nn.compact
  def __call__(self, images, *, train=False):
    _, features = self.encoder(images, train=train, return_features=True)
    colours = ColourHead(name="colour_head")(features["block4"])
    return colours.mean((1, 2))


@dataclasses.dataclass(frozen=True)
class PredictColour(Objective):
  """Learns the mean colour of an image times a fixed factor; no labels."""

  def batch_spec(self, rows, image_px):
    shape = (rows, image_px, image_px, 3)
    return {
      "images": jax.ShapeDtypeStruct(shape, jnp.uint8),
      "index": jax.ShapeDtypeStruct((rows,), jnp.int32),
    }

  def prepare(self, batch, rng):
    noise = 0.01 * jax.random.normal(rng, batch["images"].shape)
    images = models.scale_images(batch["images"])
    return {"images": images + noise, "colours": images.mean((1, 2))}

  def _errors(self, params, carried, images, colours, fixed):
    network = models.unstandardized(self.network)
    got = network.apply({"params": params}, images, train=True)
    return jnp.square(got - fixed["factor"] * colours).mean(-1)

  def loss(self, params, carried, batch, fixed, rng):
    errors = self._errors(
      params, carried, batch["images"], batch["colours"], fixed
    )
    seen = carried["seen"] + len(errors)
    return errors.mean(), Aux({"largest": errors.max()}, {"seen": seen})

  def init(self, rng):
    params, _ = super().init(rng)
    return params, {"seen": jnp.zeros((), jnp.int32)}

  def score(self, params, carried, batch, fixed):
    images = models.scale_images(batch["images"])
    colours = images.mean((1, 2))
    errors = self._errors(params, carried, images, colours, fixed)
    return Scores(
      {"error": (errors * batch["mask"]).sum()},
      {"error": errors, "seen": jnp.full(len(errors), carried["seen"])},
    )

  def summarize(self, sums, rows):
    np.testing.assert_allclose(rows["error"].sum(), sums["error"], rtol=1e-5)
    return {
      "error": float(sums["error"] / sums["examples"]),
      "median_error": float(np.median(rows["error"])),
      "seen": float(rows["seen"][0]),
    }


OBJECTIVE = PredictColour(Colours(models.create(fakes.MODEL, num_classes=4)))
FIXED = {"factor": np.float32([0.5, 1.0, 2.0])}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
  """A config that is read from a file outside the repository."""
  path = tmp_path_factory.mktemp("elsewhere") / "cfg.py"
  path.write_text(CONFIG)
  return load.load_config(str(path), ["--config.checkpoint.every_steps=2"])


@pytest.fixture(scope="module")
def run(config):
  """Runs the objective on data that is passed, not named."""
  data = RunData(fakes.array_source(), {"test": fakes.array_source(21, seed=1)})

  def run(workdir, objective=OBJECTIVE, fixed=FIXED, **overrides):
    changed = config.copy_and_resolve_references()
    changed.update_from_flattened_dict(overrides)
    return train.train_and_evaluate(
      changed, workdir, objective=objective, fixed=fixed, data=data
    )

  return run


@pytest.fixture(scope="module")
def finished(run, tmp_path_factory):
  """The result and the work directory of a run, which is only read."""
  workdir = tmp_path_factory.mktemp("finished")
  return run(workdir), workdir


def test_it_trains_evaluates_saves_and_loads(finished, tmp_path):
  result, workdir = finished
  assert result.keys() == {
    "step",
    *("eval/test/error", "eval/test/median_error", "eval/test/seen"),
  }
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  first = json.loads(lines[0])
  assert first["train/largest"] >= first["train/loss"] > 0
  # Colours are near 0 and the bias begins at 0.5: it has learned something.
  assert result["eval/test/error"] < 0.7 * first["train/loss"]
  # What changes without a gradient was threaded through the updates.
  assert result["eval/test/seen"] == 6 * 8
  loaded = weights.load(workdir / "params.npz")
  assert loaded.params["colour_head"]["out"]["kernel"].shape == (3, 3, 128, 3)
  saved = weights.load(workdir / "checkpoints")
  jax.tree.map(np.testing.assert_array_equal, loaded.params, saved.params)
  with pytest.raises(InputError, match="no place for the heads colour_head"):
    weights.save_as(tmp_path / "x.npz", loaded, weights.layouts.OFFICIAL)


def test_accumulation_gives_the_same(run, finished, tmp_path):
  whole, _ = finished
  parts = run(tmp_path / "parts", **{"optim.accum_steps": 2})
  assert parts["eval/test/seen"] == whole["eval/test/seen"]
  error = "eval/test/error"
  assert parts[error] == pytest.approx(whole[error], rel=1e-3)


def test_it_resumes_bit_by_bit_and_knows_itself(run, finished, tmp_path):
  whole, workdir = finished
  shutil.copytree(workdir, tmp_path / "whole")
  shutil.rmtree(tmp_path / "whole" / "checkpoints" / "6")
  (tmp_path / "whole" / "result.json").unlink()
  before = weights.load(tmp_path / "whole" / "params.npz").params
  assert run(tmp_path / "whole") == whole
  after = weights.load(tmp_path / "whole" / "params.npz").params
  jax.tree.map(np.testing.assert_array_equal, before, after)
  other = dataclasses.replace(
    OBJECTIVE, network=Colours(models.create(fakes.MODEL, num_classes=5))
  )
  with pytest.raises(InputError, match="resolved.objective: 'PredictColour, "):
    run(tmp_path / "whole", objective=other)
  with pytest.raises(InputError, match="resolved.fixed_digest: '"):
    run(tmp_path / "whole", fixed={"factor": np.ones(3, np.float32)})


def test_what_the_data_lacks_is_named(config, tmp_path):
  bare = RunData(fakes.array_source(labelled=False), {})
  with pytest.raises(InputError, match="its examples have no labels, which"):
    train.train_and_evaluate(config, tmp_path, data=bare)
  network = models.create(fakes.MODEL, num_classes=4, norm="bn")
  changed = config.copy_and_resolve_references()
  changed.optim.accum_steps = 2
  with pytest.raises(InputError, match="accum_steps=2 gives a network with"):
    train.train_and_evaluate(
      changed,
      tmp_path,
      objective=Classify(network),
      data=RunData(fakes.array_source(), {}),
    )
  with pytest.raises(ValueError, match="fixed arrays without an objective"):
    train.train_and_evaluate(
      config, tmp_path, fixed=FIXED, data=RunData(fakes.array_source(), {})
    )
  assert not list(tmp_path.iterdir())


def test_the_encoder_of_a_classifier_is_carried_over(run, tmp_path):
  classifier = models.create(fakes.MODEL, num_classes=4)
  params = init.init_variables(classifier, jax.random.key(1))["params"]
  saved = weights.Weights(jax.device_get(params), {}, fakes.MODEL)
  weights.save_npz(tmp_path / "classifier.npz", saved)
  up = paths.flatten(saved.params)
  # One step at a rate of nearly nothing: what was carried over is still there.
  changes = {
    "init.checkpoint": str(tmp_path / "classifier.npz"),
    "total_steps": 1,
    "optim.lr": 1e-12,
  }
  run(tmp_path / "down", **changes)
  down = paths.flatten(weights.load(tmp_path / "down").params)
  for path, value in down.items():
    if models.is_encoder(path):
      np.testing.assert_allclose(value, up[path], atol=1e-7, err_msg=path)
  np.testing.assert_allclose(down["colour_head/out/bias"], 0.5, atol=1e-6)
