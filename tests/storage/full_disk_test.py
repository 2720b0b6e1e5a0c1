"""Tests with a full disk, simulated by a limit on the size of files."""

import pytest

from bit_jax import weights
from bit_jax.storage import checkpoint
from tests import processes

pytestmark = pytest.mark.slow

ARGS = ("--config.total_steps=12", "--config.checkpoint.every_steps=4")
# In units of 1024 bytes: enough for all but a checkpoint of this network.
LIMIT = ("bash", "-c", 'ulimit -f 1000; exec "$@"', "limited")


def test_a_run_stops_at_the_next_save_and_goes_on_when_there_is_room(tmp_path):
  folder = tmp_path / "cut" / "checkpoints"
  (process,) = processes.start(tmp_path / "cut", *ARGS)
  for _ in process.stdout:
    if checkpoint.steps(folder):
      process.kill()
      break
  processes.finish([process])
  before = checkpoint.steps(folder)
  assert before[-1] == 4
  (output,), codes = processes.finish(
    processes.start(tmp_path / "cut", *ARGS, prefix=LIMIT)
  )
  assert codes == [1], output
  last = output.splitlines()[-1]
  assert last.startswith(f"error: checkpoints cannot be written to {folder}: ")
  assert "File too large" in last
  assert "Traceback" not in output
  assert "step 12 train/" in output
  assert checkpoint.steps(folder) == before
  processes.run(tmp_path / "cut", *ARGS)
  processes.run(tmp_path / "whole", *ARGS)
  a, b = (weights.load(tmp_path / d).params for d in ("cut", "whole"))
  assert a["head"]["kernel"].tobytes() == b["head"]["kernel"].tobytes()
