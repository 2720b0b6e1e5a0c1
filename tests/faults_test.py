"""The comparison of the fault driver; .ci/run runs the driver itself."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bit_jax import checkpoint, parallel
from scripts import faults


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """What the comparison reads of a finished run."""
  workdir = tmp_path_factory.mktemp("run")
  write_run(workdir)
  return workdir


def write_run(workdir, params=2.0, momentum=1.0):
  mesh = parallel.make_mesh(jax.devices()[:1])
  state = {
    "params": {"x": jnp.full((4,), params)},
    "opt_state": ({"trace": jnp.full((4,), momentum)},),
  }
  state = jax.device_put(state, parallel.replicated(mesh))
  with checkpoint.Checkpointer(workdir / "checkpoints", keep=1) as manager:
    manager.save(2, state, {})
  lines = [
    {"step": 1, "train/loss": 0.5, "train/input_wait": 0.1},
    {"step": 2, "train/loss": 0.25},
    {"step": 2, "checkpoint/stall_secs": 0.1},
  ]
  text = "".join(json.dumps(line) + "\n" for line in lines)
  (workdir / "metrics.jsonl").write_text(text)
  (workdir / "result.json").write_text('{"step": 2}')
  np.savez(workdir / "params.npz", x=np.full(4, params))


@pytest.fixture
def other(run, tmp_path):
  shutil.copytree(run, tmp_path / "other")
  return tmp_path / "other"


def test_copies_do_not_differ_and_times_do_not_count(run, other):
  assert faults.differences(run, other) == []
  path = other / "metrics.jsonl"
  path.write_text(path.read_text().replace("0.1", "0.7"))
  assert faults.differences(run, other) == []
  assert faults.stalls(other) == [0.7]


@pytest.mark.parametrize(
  ("old", "new", "expected"),
  [
    (
      "0.25",
      "0.25000001",
      "metrics.jsonl: {'step': 2, 'train/loss': 0.25} and",
    ),
    ('{"step": 2, "train/loss": 0.25}\n', "", "metrics.jsonl: 2 and 1 lines"),
    (
      '{"step": 1',
      '{"step": 1, "train/loss": 0.5}\n{"step": 1',
      "2 and 3 lines",
    ),
  ],
)
def test_metrics_that_differ(run, other, old, new, expected):
  path = other / "metrics.jsonl"
  path.write_text(path.read_text().replace(old, new))
  assert expected in "\n".join(faults.differences(run, other))


def test_states_that_differ(run, tmp_path):
  write_run(tmp_path, momentum=np.nextafter(np.float32(1), 2))
  assert faults.differences(run, tmp_path) == ["state opt_state/0/trace"]


def test_results_that_differ(run, other):
  (other / "result.json").write_text('{"step": 3}')
  np.savez(other / "params.npz", x=np.full(4, 2.5))
  found = faults.differences(run, other)
  assert found == ["result.json: {'step': 2} and {'step': 3}", "params.npz: x"]


@pytest.mark.parametrize("arguments", [["--seeds=0"], ["--kills=0"], ["x"]])
def test_wrong_flags(arguments):
  with pytest.raises(SystemExit, match="2"):
    faults.main(arguments)
