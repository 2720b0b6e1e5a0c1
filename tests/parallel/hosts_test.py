import importlib.util
import shutil

import jax
import numpy as np
import pytest
from etils import epath
from jax.experimental import multihost_utils

from bit_jax.errors import InputError, UnavailableError, UsageError
from bit_jax.parallel import hosts


@pytest.mark.parametrize(
  ("environ", "expected"),
  [
    ({}, False),
    ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, False),
    (
      {
        "SLURM_NTASKS": "4",
        "SLURM_PROCID": "2",
        "SLURM_STEP_NODELIST": "n[1-2]",
      },
      True,
    ),
    # A shell inside salloc, and a batch script before its srun.
    ({"SLURM_NTASKS": "4"}, False),
    ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, False),
    ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_MCA_orte_hnp_uri": "1;tcp://"}, True),
    ({"OMPI_COMM_WORLD_SIZE": "2"}, False),
    ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
    ({"TPU_WORKER_HOSTNAMES": "10.0.0.1,10.0.0.2"}, True),
    ({"MEGASCALE_COORDINATOR_ADDRESS": "10.0.0.1"}, True),
  ],
)
def test_a_cluster_is_recognized(environ, expected):
  assert hosts._is_cluster(environ, has_tpu=False) is expected


@pytest.mark.parametrize("installed", [False, True])
def test_a_tpu_vm_is_recognized_by_its_chips(monkeypatch, installed):
  monkeypatch.setattr(
    importlib.util, "find_spec", lambda name: name if installed else None
  )
  assert hosts._is_cluster({}, has_tpu=True) is installed


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (("", 2, -1), "need --coordinator_address"),
    (("", 0, 1), "need --coordinator_address"),
    (("localhost:1", 0, 0), "--process_id=0: expected 0 to --num_processes"),
    (("localhost:1", 2, 2), "--process_id=2: expected 0 to --num_processes"),
    (("localhost:1", 2, -1), "--process_id=-1: expected 0"),
  ],
)
def test_flags_that_do_not_go_together(arguments, message):
  with pytest.raises(UsageError, match=message):
    hosts.start(*arguments)


def test_one_process_needs_nobody(monkeypatch, tmp_path):
  monkeypatch.setattr(jax.distributed, "initialize", None)
  for key in ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"):
    monkeypatch.delenv(key, raising=False)
  hosts.start("", 0, -1)
  hosts.check_same("")
  hosts.check_workdir(epath.Path(tmp_path / "none"))
  hosts.wait_for_all("nobody")
  assert hosts.from_lead(np.arange(3)).tolist() == [0, 1, 2]
  assert hosts.from_all(True).tolist() == [True]


@pytest.fixture
def other_code(tmp_path):
  """Returns a copy of the package in which one file has another line."""
  package = hosts._PACKAGE
  shutil.copytree(package, tmp_path / "bit_jax")
  with (tmp_path / "bit_jax" / "data" / "pipeline.py").open("a") as f:
    f.write("\n")
  return tmp_path / "bit_jax"


def check_same_among_hosts(monkeypatch, others):
  """Calls check_same as host 0, with the answers of simulated other hosts.

  Args:
    monkeypatch: The test's.
    others: For each other host, a patch (module, attribute, value), or ().
  """
  monkeypatch.setattr(jax, "process_count", lambda: 1 + len(others))
  sent = []
  for change in others:
    told = []
    with monkeypatch.context() as patch:
      if change:
        patch.setattr(*change)

      def gather(x, told=told):
        told.append(x)
        return np.stack([x] * (1 + len(others)))

      patch.setattr(multihost_utils, "process_allgather", gather)
      hosts.check_same("config")
    sent.append(told)
  rounds = zip(*sent, strict=True)
  monkeypatch.setattr(
    multihost_utils,
    "process_allgather",
    lambda x: np.stack([x, *next(rounds)]),
  )
  hosts.check_same("config")


def test_hosts_with_other_code_are_refused(monkeypatch, other_code):
  changed = hosts, "_PACKAGE", other_code
  check_same_among_hosts(monkeypatch, [(), ()])
  with pytest.raises(
    InputError, match=r"^host 1 has another code than host 0$"
  ):
    check_same_among_hosts(monkeypatch, [changed, ()])
  with pytest.raises(InputError, match=r"^host 1, 3 has another code than"):
    check_same_among_hosts(monkeypatch, [changed, (), changed])


def test_hosts_with_another_version_of_jax_are_refused(monkeypatch):
  with pytest.raises(
    InputError, match=r"^host 1 has another version of JAX than host 0$"
  ):
    check_same_among_hosts(monkeypatch, [(jax, "__version__", "0.0.1"), ()])


def test_a_coordinator_that_is_not_there(monkeypatch):
  def initialize(**_):
    raise RuntimeError("DEADLINE_EXCEEDED: Barrier timed out")

  monkeypatch.setattr(jax.distributed, "initialize", initialize)
  with pytest.raises(UnavailableError, match="cannot be reached: DEADLINE"):
    hosts.start("localhost:1", 2, 1)
