"""Runs bit_jax.main in one process, or in several that form one run."""

import os
import socket
import subprocess
import sys

# Tests compile far longer than they run: less optimization takes a third off
# the whole, the older code generator compiles three times as fast, and to split
# a program for several threads costs a tenth where all cores are busy anyway.
COMPILE_SOON = (
  "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false "
  "--xla_cpu_parallel_codegen_split_count=1"
)
SMALL = (
  "--config=configs/downstream.py:preset=quick,model=R14x0.25,dataset=digits",
  "--config.input.batch_size=8",
  "--config.log_every_steps=1",
  "--config.data.eval_splits=test[:24]",
)


def free_port():
  """Returns an unused port of the loopback interface."""
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    return s.getsockname()[1]


def start(workdir, *args, processes=1, devices=4, prefix=(), own=((), ())):
  """Starts bit_jax.main and returns its processes, each with a pipe as output.

  Args:
    workdir: Work directory of the run.
    *args: Further flags.
    processes: Number of processes that form one run.
    devices: Number of virtual CPU devices of each process.
    prefix: Words before the command, e.g. to limit what it may do.
    own: Further flags of each of two processes.
  """
  environ = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} "
    + COMPILE_SOON,
    "PYTHONUNBUFFERED": "1",
  }
  group = []
  if processes > 1:
    group = [
      f"--coordinator_address=127.0.0.1:{free_port()}",
      f"--num_processes={processes}",
    ]
  return [
    subprocess.Popen(
      [
        *(*prefix, sys.executable, "-m", "bit_jax.main", *SMALL),
        *(f"--workdir={workdir}", *args, *group),
        *([f"--process_id={i}", *own[i]] if group else []),
      ],
      env=environ,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for i in range(processes)
  ]


def finish(processes, timeout_secs=300):
  """Waits for processes; returns their outputs and exit codes."""
  outputs = [p.communicate(timeout=timeout_secs)[0] for p in processes]
  return outputs, [p.returncode for p in processes]


def run(workdir, *args, **kw):
  """Runs bit_jax.main to its end; fails with its output unless all exit 0."""
  outputs, codes = finish(start(workdir, *args, **kw))
  assert not any(codes), f"{codes}\n" + "\n".join(outputs)
  return outputs
