"""Several processes of one run, on this machine, against one process."""

import json
import signal
import time

import cv2
import numpy as np
import pytest

from bit_jax import weights
from bit_jax.storage import checkpoint
from bit_jax.writers import metrics_file
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


def test_one_process_with_eight_devices_agrees_with_four(alone, tmp_path):
  (output,) = processes.run(tmp_path, STEPS, devices=8)
  assert "R14x0.25 on 8 x cpu" in output
  assert_same(tmp_path, alone)


def test_any_number_of_examples_is_evaluated_by_two_processes(tmp_path):
  # The last batch of 8 has 7 or 2 examples; of 2, the second process has none.
  flags = (
    "--config.total_steps=1",
    "--config.eval.batch_size=8",
    "--config.data.eval_splits=test[:23],test[:18]",
  )
  processes.run(tmp_path / "one", *flags)
  processes.run(tmp_path / "two", *flags, processes=2, devices=2)
  want, got = (
    json.loads((tmp_path / name / "result.json").read_text())
    for name in ("one", "two")
  )
  numbers = [v for k, v in got.items() if k.endswith("/examples")]
  assert sorted(numbers) == [18, 23]
  assert got == pytest.approx(want, rel=1e-5)


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


def test_two_processes_go_back_where_one_cannot_read_its_part(alone, tmp_path):
  flags = (
    "--config.checkpoint.every_steps=2",
    "--config.parallel.shard_state=true",
  )
  pair = processes.start(tmp_path, STEPS, *flags, processes=2, devices=2)
  for line in pair[0].stdout:
    if line.startswith("step 4 checkpoint/"):
      pair[0].send_signal(signal.SIGTERM)
      break
  outputs, codes = processes.finish(pair)
  assert codes == [75, 75], outputs
  folder = tmp_path / "checkpoints"
  newest, before = checkpoint.steps(folder)
  # What process 1 has written, it alone reads.
  for path in (folder / str(newest)).rglob("ocdbt.process_1/d/*"):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  outputs = processes.run(tmp_path, STEPS, *flags, processes=2, devices=2)
  assert f"{newest}.damaged, going back to step {before}" in outputs[0]
  assert "another host cannot read it" in outputs[0]
  assert_same(tmp_path, alone)


def test_one_that_fails_alone_ends_the_others_soon(tmp_path):
  started = time.monotonic()
  pair = processes.start(
    *(tmp_path, STEPS),
    processes=2,
    devices=2,
    own=[[], ["--config.data.name=folder:/no/such"]],
  )
  outputs, codes = processes.finish(pair)
  assert codes[1] == 1, outputs
  assert "error: folder:/no/such does not exist" in outputs[1]
  assert codes[0] != 0
  assert time.monotonic() - started < 200


def test_a_split_state_over_processes(alone, tmp_path):
  split = "--config.parallel.shard_state=true"
  processes.run(tmp_path, STEPS, split, processes=2, devices=2)
  assert_same(tmp_path, alone)


def assert_refused(pair, message):
  outputs, codes = processes.finish(pair)
  assert codes == [1, 1], outputs
  for output in outputs:
    assert message in output
    assert "Traceback" not in output


def write_folder(root, px):
  """Writes 12 images, all of one size but for one."""
  rng = np.random.default_rng(0)
  for split in ("train", "test"):
    for label in ("a", "b"):
      folder = root / split / label
      folder.mkdir(parents=True)
      for i in range(3):
        image = rng.integers(0, 256, (32, 32, 3), np.uint8)
        cv2.imwrite(str(folder / f"{i}.png"), image)
  cv2.imwrite(str(root / "train" / "b" / "2.png"), image[:px])


def test_processes_with_different_configs_are_refused(tmp_path):
  pair = processes.start(
    *(tmp_path, STEPS),
    processes=2,
    devices=2,
    own=[[], ["--config.seed=1"]],
  )
  assert_refused(pair, "host 1 has another config or data than host 0")


def test_processes_with_different_data_are_refused(tmp_path):
  # Each host has its own copy; the config is the same but for its place.
  for i in range(2):
    write_folder(tmp_path / f"data-{i}", px=32 - i)
  pair = processes.start(
    *(tmp_path / "run", STEPS, "--config.data.eval_splits=test"),
    processes=2,
    devices=2,
    own=[[f"--config.data.name=folder:{tmp_path}/data-{i}"] for i in range(2)],
  )
  assert_refused(pair, "host 1 has another config or data than host 0")
  assert not (tmp_path / "run").exists()


def test_processes_that_share_no_work_directory_are_refused(tmp_path):
  pair = processes.start(
    *(tmp_path, STEPS),
    processes=2,
    devices=2,
    own=[[f"--workdir={tmp_path}/{i}"] for i in range(2)],
  )
  assert_refused(pair, "host 1 does not see what host 0 writes there")
