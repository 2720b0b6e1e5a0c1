import dataclasses

import jax
import numpy as np
import pytest

from bit_jax import models
from bit_jax.data import preprocess
from bit_jax.errors import InputError
from bit_jax.evaluate import inference, metrics
from bit_jax.models import init
from bit_jax.objectives.classify import Classify
from bit_jax.parallel import sharding
from tests import fakes

PLAIN = preprocess.Preprocess("none", 32)


def objective(num_classes, loss="softmax"):
  network = models.create("R14x0.25", num_classes=num_classes)
  return Classify(network, loss)


@pytest.fixture(scope="module")
def params():
  """A network whose head tells 7 classes apart at random."""
  model = models.create("R14x0.25", num_classes=7)
  params = init.init_variables(model, jax.random.key(0))["params"]
  shape = params["head"]["kernel"].shape
  params["head"]["kernel"] = jax.random.normal(jax.random.key(1), shape)
  return params


def logits_of(params, source):
  model = models.create("R14x0.25", num_classes=7)
  images = source.examples.images / 127.5 - 1.0
  return np.float64(
    jax.jit(model.apply)({"params": params}, images.astype(np.float32))
  )


def test_images_are_scaled_to_plus_minus_one():
  scaled = models.scale_images(np.array([0, 255, 51], np.uint8))
  np.testing.assert_allclose(scaled, [-1, 1, -0.6], atol=1e-6)


@pytest.mark.parametrize("batch_size", [0, 4, 16])
def test_metrics_of_a_whole_split(params, mesh, batch_size):
  # 21 is no multiple of any batch size here.
  source = fakes.array_source(21, 7)
  got = metrics.evaluate_split(
    objective(7),
    params,
    {},
    source,
    PLAIN,
    batch_size=batch_size,
    mesh=mesh,
  )
  logits, labels = logits_of(params, source), source.examples.labels
  log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  best = np.argsort(-logits, axis=-1)
  assert got["examples"] == 21
  assert got["accuracy"] == np.mean(best[:, 0] == labels)
  assert got["top5_accuracy"] == np.mean(
    (best[:, :5] == labels[:, None]).any(1)
  )
  assert 0 < got["accuracy"] < got["top5_accuracy"] < 1
  np.testing.assert_allclose(
    got["loss"], -log_p[np.arange(21), labels].mean(), rtol=1e-4
  )


def test_multi_label_counts_any_right_first_guess(params, one_device):
  source = fakes.array_source(14, 7, multi_label=True)
  best = np.argsort(-logits_of(params, source), axis=-1)
  right = np.arange(14) < 9
  labels = [
    [int(b[0]), int(b[6])] if r else [int(b[5]), int(b[6])]
    for b, r in zip(best, right, strict=True)
  ]
  examples = [
    {"image": image, "label": label}
    for image, label in zip(source.examples.images, labels, strict=True)
  ]
  got = metrics.evaluate_split(
    objective(7, "sigmoid"),
    params,
    {},
    dataclasses.replace(source, examples=examples),
    PLAIN,
    batch_size=0,
    mesh=one_device,
  )
  assert got["accuracy"] == 9 / 14
  assert got["top5_accuracy"] == 9 / 14


def test_short_splits_are_not_padded_to_a_large_batch(mesh):
  assert inference.default_batch_size(10, mesh) == 12
  assert inference.default_batch_size(100_000, mesh) == 256


def test_the_same_model_shares_one_compiled_step(mesh, one_device):
  step = metrics.make_score_step(objective(7), mesh)
  assert metrics.make_score_step(objective(7), mesh) is step
  assert metrics.make_score_step(objective(7), one_device) is not step
  assert metrics.make_score_step(objective(7, "sigmoid"), mesh) is not step


def test_weights_are_standardized_when_they_are_prepared(params, mesh):
  step = metrics.make_score_step(objective(7), mesh)
  prepared, _ = step.prepare((params, {}))
  kernel = prepared["block1"]["unit01"]["conv1"]["kernel"]
  np.testing.assert_allclose(kernel.mean((0, 1, 2)), 0, atol=1e-5)
  assert kernel.sharding.is_fully_replicated
  assert len(kernel.devices()) == 4


def test_which_examples_are_right(params, mesh):
  source = fakes.array_source(21, 7)
  sums, rows = metrics.score_split(
    *(objective(7), params, {}, source, PLAIN), batch_size=8, mesh=mesh
  )
  wanted = logits_of(params, source).argmax(-1) == source.examples.labels
  np.testing.assert_array_equal(rows["right"], wanted)
  assert sums["correct"] / 21 == wanted.mean()


def test_batch_size_that_devices_cannot_share(params, mesh):
  with pytest.raises(InputError, match=r"config.eval.batch_size=6.*devices, 4"):
    metrics.evaluate_split(
      objective(7),
      params,
      {},
      fakes.array_source(21, 7),
      PLAIN,
      batch_size=6,
      mesh=mesh,
    )


def test_fewer_than_five_classes(one_device):
  model = models.create("R14x0.25", num_classes=2)
  params = init.init_variables(model, jax.random.key(0))["params"]
  got = metrics.evaluate_split(
    objective(2),
    params,
    {},
    fakes.array_source(6, 2),
    PLAIN,
    batch_size=0,
    mesh=one_device,
  )
  # Five guesses of two classes are always right.
  assert "top5_accuracy" not in got
  assert sharding.make_mesh().size == 4
