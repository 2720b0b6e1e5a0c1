import os

import pytest

from bit_jax.errors import InputError
from scripts.benchmark import cases, flags
from scripts.benchmark.flags import Case


def test_a_process_of_its_own_returns_its_result_and_its_environment(
  monkeypatch,
):
  monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "false")
  assert cases.apart(os.getpid) not in (0, os.getpid())
  assert cases.apart(os.getenv, "JAX_ENABLE_COMPILATION_CACHE") == "false"


def test_errors_cross_the_process():
  with pytest.raises(ValueError, match="invalid literal"):
    cases.apart(int, "x")
  with pytest.raises(InputError, match="its process ended without a result"):
    cases.apart(os._exit, 9)


def test_a_trial_needs_an_accelerator(monkeypatch):
  monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
  args, _ = flags.make_parser("").parse_known_args([])
  with pytest.raises(InputError, match="--memory_gib= goes by the compiler"):
    cases.run_trial("bit_jax", Case("train"), args)
  assert os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "true"
