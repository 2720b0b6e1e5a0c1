"""Several processes of one run, on this machine, against one process."""

import json
import signal
import time

import numpy as np
import pytest

from bit_jax import checkpoint, metrics_file, weights
from tests import processes

pytestmark = pytest.mark.slow

STEPS = "--config.total_steps=6"


def trained(workdir):
  """Returns losses and example hashes of each step."""
  lines = [
    line
    for line in metrics_file.read_metrics(workdir / "metrics.jsonl")
    if "train/loss" in line
  ]
  assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
  losses = np.array([line["train/loss"] for line in lines])
  return losses, [line["train/example_hash"] for line in lines]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
  """A run of one process with four devices."""
  workdir = tmp_path_factory.mktemp("alone")
  processes.run(workdir, STEPS)
  return workdir


def assert_same(workdir, alone):
  losses, hashes = trained(workdir)
  want_losses, want_hashes = trained(alone)
  assert hashes == want_hashes
  np.testing.assert_allclose(losses, want_losses, rtol=1e-5)
  got, want = (
    json.loads((d / "result.json").read_text()) for d in (workdir, alone)
  )
  assert got == pytest.approx(want, rel=1e-5)
  a, b = (weights.load(d / "params.npz").params for d in (workdir, alone))
  np.testing.assert_allclose(
    a["head"]["kernel"], b["head"]["kernel"], atol=1e-6
  )


def test_two_processes_agree_with_one(alone, tmp_path):
  outputs = processes.run(tmp_path, STEPS, processes=2, devices=2)
  assert_same(tmp_path, alone)
  assert "R14x0.25 on 4 x cpu" in outputs[0]
  assert "first step after" not in outputs[1]  # One of them speaks.
  # Each in turn: the same command again changes nothing.
  outputs = processes.run(tmp_path, STEPS, processes=2, devices=2)
  assert "is finished" in outputs[0]


def test_a_signal_to_one_stops_all_and_another_number_goes_on(alone, tmp_path):
  pair = processes.start(tmp_path, STEPS, processes=2, devices=2)
  for line in pair[0].stdout:
    if line.startswith("step 1 "):
      pair[1].send_signal(signal.SIGTERM)
      break
  outputs, codes = processes.finish(pair)
  assert codes == [75, 75], outputs
  assert "stopped by a signal to another host after step" in outputs[0]
  assert "stopped by SIGTERM after step" in outputs[1]
  (step,) = checkpoint.steps(tmp_path / "checkpoints")
  assert 1 < step <= 6
  outputs = processes.run(tmp_path, STEPS)
  assert f"resumed from step {step}" in outputs[0]
  assert_same(tmp_path, alone)


def test_two_processes_go_back_to_the_same_whole_checkpoint(alone, tmp_path):
  saves = "--config.checkpoint.every_steps=2"
  pair = processes.start(tmp_path, STEPS, saves, processes=2, devices=2)
  for line in pair[0].stdout:
    if line.startswith("step 4 checkpoint/"):
      pair[0].send_signal(signal.SIGTERM)
      break
  outputs, codes = processes.finish(pair)
  assert codes == [75, 75], outputs
  folder = tmp_path / "checkpoints"
  newest, before = checkpoint.steps(folder)
  for path in (folder / str(newest)).rglob("*"):
    if path.is_file() and path.stat().st_size > 10_000:
      path.write_bytes(path.read_bytes()[:-1000])
  outputs = processes.run(tmp_path, STEPS, saves, processes=2, devices=2)
  assert f"{newest}.damaged, going back to step {before}" in outputs[0]
  assert_same(tmp_path, alone)


def test_one_that_fails_alone_ends_the_others_soon(tmp_path):
  address = f"--coordinator_address=127.0.0.1:{processes.free_port()}"
  started = time.monotonic()
  pair = [
    process
    for i in range(2)
    for process in processes.start(
      *(tmp_path, STEPS, address, "--num_processes=2", f"--process_id={i}"),
      *(["--config.data.name=folder:/no/such"] if i else []),
      devices=2,
    )
  ]
  outputs, codes = processes.finish(pair)
  assert codes[1] == 1, outputs
  assert "error: folder:/no/such does not exist" in outputs[1]
  assert codes[0] != 0
  assert time.monotonic() - started < 200


def test_a_split_state_over_processes(alone, tmp_path):
  split = "--config.parallel.shard_state=true"
  processes.run(tmp_path, STEPS, split, processes=2, devices=2)
  assert_same(tmp_path, alone)


def test_processes_with_different_configs_are_refused(tmp_path):
  group = ["--num_processes=2"]
  address = f"--coordinator_address=127.0.0.1:{processes.free_port()}"
  pair = [
    *processes.start(
      tmp_path, STEPS, address, *group, "--process_id=0", devices=2
    ),
    *processes.start(
      *(tmp_path, STEPS, address, *group, "--process_id=1"),
      "--config.seed=1",
      devices=2,
    ),
  ]
  outputs, codes = processes.finish(pair)
  assert codes == [1, 1], outputs
  for output in outputs:
    assert "host 1 has another config or data than host 0" in output
    assert "Traceback" not in output


def test_processes_that_share_no_work_directory_are_refused(tmp_path):
  group = ["--num_processes=2"]
  address = f"--coordinator_address=127.0.0.1:{processes.free_port()}"
  pair = [
    process
    for i in range(2)
    for process in processes.start(
      *(tmp_path / str(i), STEPS, address, *group, f"--process_id={i}"),
      devices=2,
    )
  ]
  outputs, codes = processes.finish(pair)
  assert codes == [1, 1], outputs
  assert "host 1 does not see what host 0 writes there" in outputs[0]
