"""Runs the examples in docstrings of the functions that users start from."""

import doctest
import importlib

import pytest

MODULES = (
  "bit_jax.models.resnet",
  "bit_jax.objectives.losses",
  "bit_jax.recipe.hyperrule",
  "bit_jax.run.optim",
  "bit_jax.storage.user_paths",
  "bit_jax.weights.files",
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_run_and_show_what_they_return(name):
  tested = doctest.testmod(importlib.import_module(name))
  assert tested.attempted, f"{name} has no example"
  assert not tested.failed
