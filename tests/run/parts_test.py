"""The number of parts of a step is chosen once and kept."""

import json

import pytest

from bit_jax.errors import InputError
from bit_jax.run import start
from bit_jax.run.sources import RunData
from tests import fakes
from tests.fakes import make_config

TWO = {"optim.accum_steps": 2}


def open_run(workdir, parts=None, **overrides):
  """Loads a run up to its first compilation and claims its work directory.

  Args:
    workdir: The work directory.
    parts: What is chosen; None if nothing may be.
    **overrides: Config keys.
  """

  def choose(spec, config, fixed, log):
    assert parts is not None, "chosen again"
    assert (spec.accum_steps, config.input.batch_size) == (1, 8)
    if not parts:
      raise InputError("too large")
    return parts

  source = fakes.array_source()
  data = RunData(train=source, evals={"test": source})
  inputs = start.load(make_config(**overrides), workdir, data=data)
  run = start.load_objective(inputs, choose_parts=choose)
  run.files.write_config([], write=True)
  return run


def stored(workdir):
  return json.loads((workdir / "config.json").read_text())


def forget(workdir):
  """Makes config.json one of before the number was chosen."""
  config = stored(workdir)
  del config["resolved"]["accum_steps"]
  (workdir / "config.json").write_text(json.dumps(config))


def test_it_is_chosen_once_and_kept_on_resuming(tmp_path):
  assert open_run(tmp_path, 2).spec.accum_steps == 2
  assert stored(tmp_path)["resolved"]["accum_steps"] == 2
  assert stored(tmp_path)["optim"]["accum_steps"] == 0
  assert open_run(tmp_path).spec.accum_steps == 2
  # The same number is the same run, whoever gives it.
  assert open_run(tmp_path, **TWO).spec.accum_steps == 2
  with pytest.raises(InputError, match="resolved.accum_steps: 2 -> 1"):
    open_run(tmp_path, **{"optim.accum_steps": 1})


def test_a_number_that_is_given_is_not_chosen(tmp_path):
  assert open_run(tmp_path, **TWO).spec.accum_steps == 2
  assert open_run(tmp_path).spec.accum_steps == 2


def test_runs_of_before_keep_theirs(tmp_path):
  open_run(tmp_path, **TWO)
  forget(tmp_path)
  assert open_run(tmp_path).spec.accum_steps == 2
  other = tmp_path / "other"
  open_run(other, **{"optim.accum_steps": 1})
  forget(other)
  assert open_run(other).spec.accum_steps == 1


def test_another_batch_makes_another_choice(tmp_path):
  open_run(tmp_path, 2)
  config = stored(tmp_path)
  config["resolved"]["accum_steps"] = 3
  (tmp_path / "config.json").write_text(json.dumps(config))
  changed = {"resume_changed": True}
  assert open_run(tmp_path, 1, **changed).spec.accum_steps == 1


def test_a_step_that_does_not_fit_claims_no_work_directory(tmp_path):
  with pytest.raises(InputError, match="too large"):
    open_run(tmp_path / "w", 0)
  assert not (tmp_path / "w").exists()
