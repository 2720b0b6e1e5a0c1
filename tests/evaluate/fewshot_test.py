import functools
import pathlib

import jax
import numpy as np
import pytest

from bit_jax import models
from bit_jax.data import preprocess
from bit_jax.errors import InputError
from bit_jax.evaluate import fewshot, inference
from bit_jax.models import init
from tests import fakes

GOLDEN = np.load(
  pathlib.Path(__file__).parents[1] / "goldens" / "fewshot_ridge.npz"
)


@pytest.mark.parametrize("case", ["dual", "primal"])
def test_ridge_reaches_the_accuracy_of_big_vision(case):
  x, y, x_test, y_test = (
    GOLDEN[f"{case}/{k}"] for k in ("x", "y", "x_test", "y_test")
  )
  assert (len(x) > x.shape[1]) == (case == "primal")
  got = fewshot.ridge_accuracy(x, y, x_test, y_test, num_classes=10)
  assert got == pytest.approx(float(GOLDEN[f"{case}/accuracy_l2_1024"]))


def test_primal_and_dual_are_one_solution(monkeypatch):
  x, y, x_test, y_test = (
    GOLDEN[f"dual/{k}"] for k in ("x", "y", "x_test", "y_test")
  )
  solved = []
  solve = np.linalg.solve
  monkeypatch.setattr(
    np.linalg, "solve", lambda a, b: solved.append(a.shape) or solve(a, b)
  )
  few = fewshot.ridge_accuracy(x, y, x_test, y_test, num_classes=10)
  # Duplicated examples with twice the L2 weight are the same problem.
  many = fewshot.ridge_accuracy(
    np.tile(x, (2, 1)),
    np.tile(y, 2),
    x_test,
    y_test,
    num_classes=10,
    l2=2 * fewshot.L2,
  )
  assert solved == [(50, 50), (97, 97)]
  assert few == many


@pytest.fixture(scope="module")
def network(one_device):
  model = models.create("R14x0.25", num_classes=4)
  params = init.init_variables(model, jax.random.key(0))["params"]
  return (
    inference.make_feature_step(model, one_device),
    {"params": params},
    model,
  )


PLAIN = preprocess.Preprocess("none", 32)


def test_features_come_in_order_without_padding(network, one_device):
  step, variables, model = network
  source = fakes.array_source(67, 4)
  prepare = functools.partial(step.prepare, variables)
  blocks = list(
    inference.feature_rows(
      step, prepare, source, PLAIN, one_device, batch_size=32
    )
  )
  assert [len(block) for block in blocks] == [32, 32, 3]
  rows = np.concatenate(blocks)
  features, labels = rows["features"], rows["label"]
  np.testing.assert_array_equal(labels, source.examples.labels)
  images = np.float32(source.examples.images) / 127.5 - 1
  apply = jax.jit(lambda v, x: model.apply(v, x, return_features=True))
  _, expected = apply(variables, images)
  np.testing.assert_allclose(features, expected["pre_logits"], atol=1e-4)


def test_few_shot_accuracy_of_random_features(network, one_device):
  step, variables, _ = network
  got = fewshot.evaluate_few_shot(
    step,
    variables,
    fakes.array_source(120, 4),
    fakes.array_source(80, 4, seed=1),
    PLAIN,
    one_device,
    shots=(1, 20),
    seeds=2,
  )
  assert set(got) == {"1shot_accuracy", "20shot_accuracy"}
  # Chance is 0.25.
  assert 0.3 < got["1shot_accuracy"] < got["20shot_accuracy"] <= 1


def test_more_shots_than_examples(network, one_device):
  step, variables, _ = network
  source = fakes.array_source(8, 4)
  with pytest.raises(InputError, match="fewer than the 5"):
    fewshot.evaluate_few_shot(
      step, variables, source, source, PLAIN, one_device, shots=(5,)
    )


def test_preprocessing():
  photos = fakes.array_source(native_px=0)
  assert fewshot.default_preprocess(photos) == (
    preprocess.Preprocess("square_central", 224, 256)
  )
  assert fewshot.default_preprocess(fakes.array_source()) == PLAIN
  # The square resize distorts; the crop then cuts 1/16 on each side.
  image = np.zeros((64, 128, 3), np.uint8)
  image[:, :8] = 255
  way = preprocess.Preprocess("square_central", 28, 32)
  assert way(image).shape == (28, 28, 3)
  assert not way(image).any()
