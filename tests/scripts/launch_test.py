"""The launchers, with stubs in place of Python, Slurm, gcloud and git."""

import contextlib
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

SCRIPTS = pathlib.Path(__file__).resolve().parents[2] / "scripts"
LOCAL = str(SCRIPTS / "launch/local.sh")
SLURM = str(SCRIPTS / "launch/slurm.sh")
TPU_POD = str(SCRIPTS / "launch/tpu_pod.sh")
# What a shell would take apart.
ARGUMENTS = ["--config=a b.py:x=$HOME", "--config.k=('it\"s','*')", "--empty="]
DEADLINE_SECS = 20

# In place of Python; $DO_0 says what process 0 does, and so on.
PROGRAM = r"""#!/usr/bin/env bash
id=${*: -1}
id=${id#--process_id=}
printf '%s\0' "$@" > "$OUT/arguments-$id"
env > "$OUT/environment-$id"
for name in TERM INT USR1; do
  trap "echo $name >> $OUT/got-$id" "$name"
done
echo yes > "$OUT/started-$id"
wait_for() { until [[ -s $1 ]]; do sleep 0.02; done; }
do=DO_$id
eval "${!do}"
"""
# Waits for a signal, and long enough that a second one would be seen.
STOP = 'wait_for "$OUT/got-$id"; sleep 0.1; exit 75'


@pytest.fixture(autouse=True)
def environment(tmp_path, monkeypatch):
  """Programs of `tmp_path/bin` come first; no others than the stubs run."""
  (tmp_path / "bin").mkdir()
  monkeypatch.setenv("OUT", str(tmp_path))
  monkeypatch.setenv("TMPDIR", str(tmp_path))
  monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
  monkeypatch.setenv(
    "BIT_JAX_PYTHON", write_program(tmp_path, "python", PROGRAM)
  )
  for name in ("CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS", "XLA_FLAGS"):
    monkeypatch.delenv(name, raising=False)


def write_program(tmp_path, name, text):
  path = tmp_path / "bin" / name
  path.write_text(text)
  path.chmod(0o755)
  return str(path)


def command(*args):
  # A shell that ignores SIGINT, as one in the background does, cannot trap it.
  return ["env", "--default-signal=INT", *args]


@contextlib.contextmanager
def started(*args, **kwargs):
  with subprocess.Popen(command(*args), text=True, **kwargs) as process:
    try:
      yield process
    finally:
      process.terminate()


def run(*args, **kwargs):
  return subprocess.run(
    command(*args),
    capture_output=True,
    text=True,
    timeout=DEADLINE_SECS,
    **kwargs,
  )


def wait_for(*paths):
  deadline = time.monotonic() + DEADLINE_SECS
  while not all(path.exists() for path in paths):
    assert time.monotonic() < deadline, f"none of {paths}"
    time.sleep(0.02)


def lines(path):
  return path.read_text().splitlines()


@pytest.mark.parametrize("script", [LOCAL, SLURM, TPU_POD])
def test_help_is_the_header(script):
  done = run(script, "--help", cwd="/")
  assert done.returncode == 0
  header = pathlib.Path(script).read_text().split("\nset -euo")[0]
  expected = [line[2:] for line in header.splitlines()[1:]]
  assert done.stdout.splitlines() == expected


@pytest.mark.parametrize(
  "args",
  [
    (LOCAL, "--bogus", "--", "--x"),
    (LOCAL, "--processes=0", "--", "--x"),
    (LOCAL, "--processes", "2", "--", "--x"),
    (LOCAL,),
    (LOCAL, "--"),
    (SLURM, "--bogus=a b", "--", "--x"),
    (SLURM, "--nodes=two", "--", "--x"),
    (SLURM, "--gpus_per_node=a100:", "--", "--x"),
    (SLURM, "--job_name=a/b", "--", "--x"),
    (SLURM, '--log_dir=a"b', "--", "--x"),
    (SLURM, "--"),
    (TPU_POD, "create"),
    (TPU_POD, "create", "--name=n"),
    (TPU_POD, "--name=n", "--zone=z"),
    (TPU_POD, "create", "delete", "--name=n", "--zone=z"),
    (TPU_POD, "run", "--bogus", "--name=n", "--zone=z"),
    (TPU_POD, "run", "--name=n", "--zone=z", "--", "--x"),
    (TPU_POD, "run", "--name=n", "--zone=z", "--workdir=/tmp/x", "--", "--x"),
    (TPU_POD, "run", "--name=n", "--zone=z", "--workdir=gs://", "--", "--x"),
    (TPU_POD, "run", "--name=n", "--zone=z", "--workdir=gs://b/r"),
    (
      *(TPU_POD, "run", "--name=n", "--zone=z", "--workdir=gs://b/r"),
      *("--", "--workdir=gs://b/other"),
    ),
  ],
)
def test_wrong_usage_is_one_line(args):
  done = run(*args)
  assert done.returncode == 2
  assert done.stdout == ""
  assert done.stderr.startswith("error: ")
  assert done.stderr.count("\n") == 1


def test_a_long_message_is_whole():
  pod = (TPU_POD, "run", "--name=n", "--zone=z")
  done = run(*pod, "--workdir=/tmp/x", "--", "--x")
  assert done.stderr == (
    "error: --workdir=/tmp/x: expected gs://BUCKET/FOLDER, as the workers "
    "share no disk\n"
  )


@pytest.mark.parametrize(
  "args",
  [
    (LOCAL, "--grace_secs={}", "--", "--x"),
    (SLURM, "--max_crashes={}", "--", "--x"),
    (TPU_POD, "stop", "--name=n", "--zone=z", "--poll_secs={}"),
  ],
)
@pytest.mark.parametrize("number", ["x", "", "-1", "1.5", "01"])
def test_what_is_no_number_is_named(args, number):
  done = run(*(arg.format(number) for arg in args))
  assert done.returncode == 2
  shown = number or "''"
  assert done.stderr.startswith(f"error: {shown}: expected a number from 0")


class TestLocal:
  def test_dry_run_prints_commands_that_a_shell_reads_back(self, tmp_path):
    done = run(LOCAL, "--processes=3", "--dry_run", "--", *ARGUMENTS)
    assert done.returncode == 0
    commands = [shlex.split(line) for line in done.stdout.splitlines()]
    assert len(commands) == 3
    for i, words in enumerate(commands):
      assert words[:2] == [
        "env",
        "XLA_FLAGS=--xla_force_host_platform_device_count=1",
      ]
      assert words[2:6] == [
        "JAX_PLATFORMS=cpu",
        os.environ["BIT_JAX_PYTHON"],
        "-m",
        "bit_jax.main",
      ]
      assert words[6:9] == ARGUMENTS
      assert f"--process_id={i}" in words
    assert not (tmp_path / "started-0").exists()

  def test_arguments_and_environment_arrive(self, tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--a --b")
    done = run(LOCAL, "--devices_per_process=3", "--", *ARGUMENTS)
    assert done.returncode == 0
    addresses = set()
    for i in range(2):
      text = (tmp_path / f"arguments-{i}").read_text()
      arguments = text.split("\0")[:-1]
      assert arguments[:5] == ["-m", "bit_jax.main", *ARGUMENTS]
      addresses.add(arguments[5])
      assert arguments[6:] == ["--num_processes=2", f"--process_id={i}"]
      environment = lines(tmp_path / f"environment-{i}")
      flag = "--xla_force_host_platform_device_count=3"
      assert f"XLA_FLAGS=--a --b {flag}" in environment
      assert "JAX_PLATFORMS=cpu" in environment
    [address] = addresses
    assert re.fullmatch(
      r"--coordinator_address=127\.0\.0\.1:[23]\d{4}", address
    )

  @pytest.mark.parametrize(
    ("visible", "expected"), [("", ["0,1", "2,3"]), ("7,5,1,0", ["7,5", "1,0"])]
  )
  def test_gpus_are_shared_out(self, tmp_path, monkeypatch, visible, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    done = run(LOCAL, "--gpus", "--devices_per_process=2", "--", "--x")
    assert done.returncode == 0
    for i, devices in enumerate(expected):
      environment = lines(tmp_path / f"environment-{i}")
      assert f"CUDA_VISIBLE_DEVICES={devices}" in environment

  def test_too_few_gpus_start_nothing(self, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    done = run(LOCAL, "--gpus", "--", "--x")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
      "error: CUDA_VISIBLE_DEVICES: expected 2 GPUs"
    ]
    assert not (tmp_path / "started-0").exists()

  @pytest.mark.parametrize(("do_1", "kept"), [("exit 0", 0), ("exit 1", 1)])
  def test_logs_that_nobody_named_stay_after_a_failure_only(
    self, tmp_path, monkeypatch, do_1, kept
  ):
    monkeypatch.setenv("DO_0", "exit 0")
    monkeypatch.setenv("DO_1", do_1)
    run(LOCAL, "--", "--x")
    assert len(list(tmp_path.glob("bit_jax.*"))) == kept

  def test_process_0_writes_to_the_terminal_the_others_to_logs(
    self, tmp_path, monkeypatch
  ):
    for i in range(2):
      monkeypatch.setenv(f"DO_{i}", f"echo out {i}; echo err {i} >&2")
    done = run(LOCAL, f"--log_dir={tmp_path}/my logs", "--", "--x")
    assert done.stdout == "out 0\n"
    assert "err 0\n" in done.stderr
    log = tmp_path / "my logs" / "process-1.log"
    assert lines(log) == ["out 1", "err 1"]

  @pytest.mark.parametrize(
    ("do_0", "do_1", "code"),
    [
      ("exit 0", "exit 0", 0),
      ("exit 75", "sleep 0.1; exit 75", 75),
      ("exit 0", "sleep 0.1; exit 75", 75),
      ("exit 75", "sleep 0.1; exit 9", 9),
      (STOP, "echo oops; exit 3", 3),
      ("exit 1", STOP, 1),
      (STOP, "kill -KILL $$", 137),
    ],
  )
  def test_exit_code_is_that_of_the_first_failure(
    self, monkeypatch, do_0, do_1, code
  ):
    monkeypatch.setenv("DO_0", do_0)
    monkeypatch.setenv("DO_1", do_1)
    done = run(LOCAL, "--", "--x")
    assert done.returncode == code
    assert ("oops" in done.stderr) == ("oops" in do_1)

  def test_others_are_not_disturbed_when_one_has_stopped(
    self, tmp_path, monkeypatch
  ):
    monkeypatch.setenv("DO_0", "exit 75")
    monkeypatch.setenv("DO_1", f"sleep 0.1; sleep 0.1; touch {tmp_path}/saved")
    assert run(LOCAL, "--", "--x").returncode == 75
    assert (tmp_path / "saved").exists()
    assert not (tmp_path / "got-1").exists()

  def test_who_does_not_end_is_killed(self, tmp_path, monkeypatch):
    monkeypatch.setenv("DO_0", "wait_for /never")
    monkeypatch.setenv("DO_1", f'wait_for "{tmp_path}/started-0"; exit 4')
    assert run(LOCAL, "--grace_secs=0", "--", "--x").returncode == 4
    assert lines(tmp_path / "got-0") == ["TERM"]

  @pytest.mark.parametrize("name", ["TERM", "INT", "USR1"])
  def test_signals_reach_each_process_once(self, tmp_path, monkeypatch, name):
    for i in range(3):
      monkeypatch.setenv(f"DO_{i}", STOP)
    with started(LOCAL, "--processes=3", "--", "--x") as launcher:
      wait_for(*(tmp_path / f"started-{i}" for i in range(3)))
      launcher.send_signal(signal.Signals[f"SIG{name}"])
      assert launcher.wait(DEADLINE_SECS) == 75
    for i in range(3):
      assert lines(tmp_path / f"got-{i}") == [name]

  def test_ctrl_c_on_a_terminal_reaches_each_process_once(
    self, tmp_path, monkeypatch
  ):
    for i in range(2):
      monkeypatch.setenv(f"DO_{i}", STOP)
    spawn = (
      "import os, pty, sys;"
      "sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"
    )
    with started(
      *(sys.executable, "-c", spawn, LOCAL, "--", "--x"),
      stdin=subprocess.PIPE,
      stdout=subprocess.DEVNULL,
    ) as launcher:
      wait_for(*(tmp_path / f"started-{i}" for i in range(2)))
      assert launcher.stdin
      launcher.stdin.write("\x03")
      launcher.stdin.flush()
      assert launcher.wait(DEADLINE_SECS) == 75
    for i in range(2):
      assert lines(tmp_path / f"got-{i}") == ["INT"]


SRUN = r"""#!/usr/bin/env bash
printf '%s\0' "$@" > "$OUT/srun"
exit "$CODE"
"""
SQUEUE = """#!/usr/bin/env bash
echo "$STATE"
"""
SCONTROL = """#!/usr/bin/env bash
echo "$*" >> "$OUT/scontrol"
"""
SBATCH = """#!/usr/bin/env bash
cat > "$OUT/submitted"
echo "$*" > "$OUT/sbatch"
[[ $CODE == 0 ]] || exit "$CODE"
echo '123;cluster'
"""


class TestSlurm:
  @pytest.fixture(autouse=True)
  def slurm(self, tmp_path, monkeypatch):
    for name, text in (
      ("srun", SRUN),
      ("squeue", SQUEUE),
      ("scontrol", SCONTROL),
      ("sbatch", SBATCH),
    ):
      write_program(tmp_path, name, text)
    monkeypatch.setenv("CODE", "0")
    monkeypatch.setenv("STATE", "RUNNING")
    for key, value in (
      ("JOB_ID", "123"),
      ("JOB_NAME", "bit_jax"),
      ("JOB_NODELIST", "node[1-2]"),
    ):
      monkeypatch.setenv(f"SLURM_{key}", value)

  def script(self, *flags):
    done = run(SLURM, *flags, "--dry_run", "--", *ARGUMENTS)
    assert done.returncode == 0
    return done.stdout

  def test_options(self, tmp_path):
    script = self.script(
      "--nodes=2",
      "--gpus_per_node=a100:4",
      "--cpus_per_task=6",
      "--time=1-00:00:00",
      "--account=me",
      "--sbatch=--qos=long",
      f"--log_dir={tmp_path}/my logs",
    )
    options = [line for line in script.splitlines() if "#SBATCH" in line]
    assert options == [
      f"#SBATCH {option}"
      for option in (
        "--job-name=bit_jax",
        "--nodes=2",
        "--ntasks-per-node=4",
        "--gres=gpu:a100:4",
        "--cpus-per-task=6",
        f'--output="{tmp_path}/my logs/%x-%j.log"',
        "--open-mode=append",
        "--requeue",
        "--signal=USR1@120",
        "--time=1-00:00:00",
        "--account=me",
        "--qos=long",
      )
    ]
    assert script.startswith("#!/usr/bin/env bash\n#SBATCH")
    assert not (tmp_path / "submitted").exists()

  def test_submits_what_the_dry_run_prints(self, tmp_path):
    done = run(SLURM, "--log_dir=my logs", "--", *ARGUMENTS, cwd=tmp_path)
    assert done.returncode == 0
    logs = tmp_path / "my logs"
    assert logs.is_dir()
    assert f"job 123: log in {logs}/bit_jax-123.log" in done.stdout
    assert (tmp_path / "sbatch").read_text() == "--parsable\n"
    expected = self.script(f"--log_dir={logs}")
    assert (tmp_path / "submitted").read_text() == expected

  def test_refused(self, monkeypatch):
    monkeypatch.setenv("CODE", "1")
    done = run(SLURM, "--", *ARGUMENTS)
    assert done.returncode == 1
    assert done.stderr == "error: sbatch refused the job\n"
    monkeypatch.setenv("BIT_JAX_PYTHON", "/no/python")
    done = run(SLURM, "--", *ARGUMENTS)
    assert done.stderr == "error: /no/python is not there\n"

  def test_arguments_arrive(self, tmp_path):
    done = run("bash", "-c", self.script("--cpus_per_task=6"), cwd=tmp_path)
    assert done.returncode == 0
    arguments = (tmp_path / "srun").read_text().split("\0")[:-1]
    program = [os.environ["BIT_JAX_PYTHON"], "-m", "bit_jax.main"]
    assert arguments == [
      "--kill-on-bad-exit=0",
      "--wait=300",
      "--cpus-per-task=6",
      *program,
      *ARGUMENTS,
    ]

  @pytest.mark.parametrize(
    ("code", "state", "requeued"),
    [
      (0, "RUNNING", False),
      (1, "RUNNING", False),
      (2, "RUNNING", False),
      (75, "RUNNING", True),
      (75, "COMPLETING", False),
      (75, "", False),
      (139, "RUNNING", True),
      (139, "COMPLETING", False),
    ],
  )
  def test_requeued_or_not(self, tmp_path, monkeypatch, code, state, requeued):
    monkeypatch.setenv("CODE", str(code))
    monkeypatch.setenv("STATE", state)
    done = run("bash", "-c", self.script(f"--log_dir={tmp_path}"))
    if requeued:
      assert lines(tmp_path / "scontrol") == ["requeue 123"]
    else:
      assert done.returncode == code
      assert not (tmp_path / "scontrol").exists()

  def test_gives_up_after_some_crashes_however_often_it_stopped(
    self, tmp_path, monkeypatch
  ):
    script = self.script(f"--log_dir={tmp_path}", "--max_crashes=2")
    codes = [75, 139, 75, 75, 7, 75, 75, 139]
    for restart, code in enumerate(codes):
      monkeypatch.setenv("CODE", str(code))
      monkeypatch.setenv("SLURM_RESTART_COUNT", str(restart))
      done = run("bash", "-c", script)
    assert done.returncode == 139
    assert "crash 3: code 139" in done.stdout
    assert "given up" in done.stdout
    assert len(lines(tmp_path / "scontrol")) == len(codes) - 1


# A pod of two workers on this machine: $OUT/state is its state, and worker N
# has its home in $OUT/worker-N.
GCLOUD = r"""#!/usr/bin/env bash
set -u
[[ "$1 $2 $3" == 'compute tpus tpu-vm' ]] || exit 2
verb=$4 what='' command='' worker=none output='' state=''
[[ " $* " == *' --zone=z --project=q --quiet '* ]] || exit 2
for flag in "$@"; do
  case $flag in
    --command=*) command=${flag#*=} ;;
    --worker=*) worker=${flag#*=} ;;
    --output-directory=*) output=${flag#*=} ;;
  esac
done
read -r what <<< "$command"
case $verb$what in
  'ssh# state') echo >> "$OUT/polls" ;;
  describe) ;;
  *) echo "$verb${what/\#/}" >> "$OUT/calls" ;;
esac
[[ ! -e $OUT/state ]] || state=$(cat "$OUT/state")
case $verb in
  describe)
    if [[ -e $OUT/states ]]; then
      state=$(sed -n 1p "$OUT/states")
      sed -i 1d "$OUT/states"
      [[ -s $OUT/states ]] || rm "$OUT/states"
    fi
    [[ $state != broken ]] || { echo 'no network' >&2; exit 1; }
    [[ $state ]] || { echo "NOT_FOUND: 'n' was not found" >&2; exit 1; }
    echo "$state"
    ;;
  create)
    printf '%s\n' "$@" > "$OUT/create"
    if [[ -s $OUT/refusals ]]; then
      sed -n 1p "$OUT/refusals" >&2
      sed -i 1d "$OUT/refusals"
      exit 1
    fi
    for n in 0 1; do
      mkdir -p "$OUT/worker-$n/bit_jax/.venv/bin"
      cp "$OUT/worker" "$OUT/worker-$n/bit_jax/.venv/bin/python"
    done
    echo READY > "$OUT/state"
    ;;
  delete) rm -rf "$OUT"/worker-* "$OUT/state" ;;
  *)
    [[ $state == READY ]] || { echo "in state $state" >&2; exit 255; }
    result=0
    for n in 0 1; do
      [[ $worker == all || $worker == "$n" ]] || continue
      if [[ $verb == scp ]]; then
        cp "$5" "$OUT/worker-$n/${6#n:}" || result=$?
      else
        log=/dev/stdout
        [[ ! $output ]] || log=$output/$n.log
        HOME=$OUT/worker-$n WORKER=$n bash -c "$command" > "$log" 2>&1 \
          || result=$?
      fi
    done
    exit "$result"
    ;;
esac
"""
GIT = """#!/usr/bin/env bash
case $1 in
  rev-parse) echo abcdef0123456789 ;;
  archive) tar -czf "$4" -C "$OUT/checkout" . ;;
esac
"""
# In place of Python on the workers: run number R of worker N does what line R
# of $OUT/do-N says.
WORKER = r"""#!/usr/bin/env bash
[[ $2 == bit_jax.main ]] || { echo "$*" >> "$OUT/other-$WORKER"; exit; }
printf '%s\n' "$@" > "$OUT/arguments-$WORKER"
echo "$PWD" >> "$OUT/runs-$WORKER"
eval "$(sed -n "$(wc -l < "$OUT/runs-$WORKER")p" "$OUT/do-$WORKER")"
"""
INSTALL_AND_START = ["scp", "ssh install", "ssh start"]
# Leaves no trace in memory.
REBOOT = (
  "run=/dev/shm/bit_jax$HOME; until [[ -s $run/pid ]]; do sleep 0.02; done;"
  'rm -r "$run"; exit 0'
)
WAIT = 'until [[ -e $OUT/go ]]; do sleep 0.02; done; exit "$(cat "$OUT/go")"'


class TestTpuPod:
  @pytest.fixture(autouse=True)
  def cloud(self, tmp_path):
    write_program(tmp_path, "gcloud", GCLOUD)
    write_program(tmp_path, "git", GIT)
    (tmp_path / "worker").write_text(WORKER)
    (tmp_path / "worker").chmod(0o755)
    (tmp_path / "calls").touch()
    scripts = tmp_path / "checkout" / "scripts"
    scripts.mkdir(parents=True)
    (scripts / "setup_env.sh").write_text('pwd >> "$OUT/set_up"\n')
    (scripts / "setup_env.sh").chmod(0o755)
    self.out = tmp_path
    yield
    folder = pathlib.Path(f"/dev/shm/bit_jax{tmp_path}")
    for pid in folder.glob("*/pid"):
      with contextlib.suppress(ProcessLookupError):
        os.killpg(int(pid.read_text()), signal.SIGKILL)
    for run_folder in folder.glob("*"):
      shutil.rmtree(run_folder)
    with contextlib.suppress(FileNotFoundError):
      os.removedirs(folder)

  def args(self, verb, *flags):
    flags = [TPU_POD, verb, "--name=n", "--zone=z", "--project=q", *flags]
    if verb == "run":
      flags += ["--workdir=gs://b/r", "--poll_secs=0", "--", *ARGUMENTS]
    return flags

  def launch(self, verb, *flags):
    return run(*self.args(verb, *flags))

  def do(self, worker_0, worker_1=None):
    (self.out / "do-0").write_text("\n".join(worker_0))
    (self.out / "do-1").write_text("\n".join(worker_1 or worker_0))

  def calls(self):
    return lines(self.out / "calls")

  def test_what_gcloud_will_never_do_is_not_tried_again(self):
    write_program(
      self.out,
      "gcloud",
      "#!/bin/sh\necho 'required property [project] is not set' >&2\nexit 1",
    )
    done = self.launch("run")
    assert done.returncode == 1
    assert done.stderr.count("required property") == 1
    assert "gcloud cannot be used like this" in done.stderr

  def test_dry_run_prints_commands_that_a_shell_reads_back(self):
    done = self.launch(
      "run", "--dry_run", "--spot", "--setup=mount 'a b'", "--ssh_flag=-x"
    )
    assert done.returncode == 0
    assert self.calls() == []
    words = shlex.split(done.stdout, comments=True)
    starts = [i for i, word in enumerate(words) if word == "gcloud"]
    verbs = [words[i + 4] for i in starts]
    assert verbs == [
      *("describe", "delete", "create", "scp"),
      *("ssh", "ssh", "ssh", "ssh"),
    ]
    create = words[starts[2] : starts[3]]
    assert create[4:9] == [
      *("create", "n", "--accelerator-type=v3-512"),
      *("--version=tpu-ubuntu2204-base", "--spot"),
    ]
    install, start = [word for word in words if "--command=" in word][:2]
    assert "\nmount 'a b'\n" in install
    [line] = [line for line in start.splitlines() if "bit_jax.main" in line]
    assert shlex.split(line)[3:] == [*ARGUMENTS, "--workdir=gs://b/r"]
    assert words.count("-x") == 5

  @pytest.mark.parametrize("verb", ["create", "install", "stop", "delete"])
  def test_dry_run_does_nothing(self, verb):
    done = self.launch(verb, "--dry_run")
    assert done.returncode == 0
    assert "gcloud compute tpus tpu-vm" in done.stdout
    assert self.calls() == []

  def test_from_nothing_to_the_end(self):
    two_polls = 'until (($(wc -l < "$OUT/polls") > 3)); do sleep 0.02; done'
    self.do([f'echo first; {two_polls}; echo "second line"; exit 0'])
    done = self.launch("run", "--spot", "--type=v5p-16", "--setup=pwd>$OUT/own")
    assert done.returncode == 0
    assert self.calls() == ["create", *INSTALL_AND_START]
    assert lines(self.out / "create")[4:8] == [
      *("n", "--accelerator-type=v5p-16", "--version=v2-alpha-tpuv5", "--spot")
    ]
    assert done.stdout == "first\nsecond line\n"
    for i in range(2):
      assert lines(self.out / f"arguments-{i}") == [
        *("-m", "bit_jax.main", *ARGUMENTS, "--workdir=gs://b/r")
      ]
      folder = f"{self.out}/worker-{i}/bit_jax"
      assert lines(self.out / f"runs-{i}") == [folder]
      assert folder in lines(self.out / "set_up")
      [pip] = lines(self.out / f"other-{i}")
      assert pip.endswith(
        "--requirement requirements.txt jax[tpu] --editable .[gcs]"
      )
    assert lines(self.out / "own") == [folder]

  def test_is_installed_once_on_each_pod(self):
    self.do(["exit 7", "exit 0"])
    assert self.launch("run").returncode == 0
    assert len(lines(self.out / "set_up")) == 2

  def test_preempted_pod_is_created_again(self):
    preempt = 'echo PREEMPTED > "$OUT/state"; exit 143'
    self.do([preempt, preempt, "exit 0"], ["exit 143", "exit 75", "exit 0"])
    done = self.launch("run", "--max_crashes=0")
    assert done.returncode == 0
    again = ["delete", "create", *INSTALL_AND_START]
    assert self.calls() == ["create", *INSTALL_AND_START, *again, *again]
    assert len(lines(self.out / "runs-0")) == 3

  def test_crash_of_a_pod_that_is_being_taken_does_not_count(self):
    states = ["", "READY", "PREEMPTED", "PREEMPTED"]
    (self.out / "states").write_text("\n".join(states) + "\n")
    self.do(["exit 143", "exit 0"])
    assert self.launch("run", "--max_crashes=0").returncode == 0
    once = ["create", *INSTALL_AND_START]
    assert self.calls() == [*once, "delete", *once]

  def test_worker_that_hangs_is_ended_before_the_next_start(self):
    self.do(
      ["exit 7", "exit 0"],
      [
        'trap "" TERM; echo $$ > "$OUT/hung"; while :; do sleep 0.02; done',
        'kill -0 "$(cat "$OUT/hung")" && touch "$OUT/both"; exit 0',
      ],
    )
    assert self.launch("run").returncode == 0
    assert (self.out / "hung").exists()
    assert not (self.out / "both").exists()

  def test_pod_that_vanishes_is_created_again(self):
    self.do(['rm "$OUT/state"; exit 0', "exit 0"])
    assert self.launch("run").returncode == 0
    assert self.calls() == ["create", *INSTALL_AND_START] * 2

  @pytest.mark.parametrize(
    ("worker_0", "worker_1", "code", "runs"),
    [
      (["exit 1"], ["exit 1"], 1, 1),
      (["exit 2"], ["exit 0"], 2, 1),
      (["exit 75", "exit 0"], ["exit 75", "exit 0"], 0, 2),
      (["exit 75", "exit 0"], ["exit 0", "exit 0"], 0, 2),
      (["exit 7"] * 2, ["exit 0"] * 2, 7, 2),
      # A worker that lost another says 1, which is not bad input then.
      (["exit 1"] * 2, ["exit 134"] * 2, 134, 2),
      (["exit 75", "exit 9", "exit 0"], None, 0, 3),
      ([REBOOT, "exit 0"], ["exit 0"] * 2, 0, 2),
    ],
  )
  def test_exit_codes(self, worker_0, worker_1, code, runs):
    self.do(worker_0, worker_1)
    assert self.launch("run", "--max_crashes=1").returncode == code
    assert self.calls() == ["create", *(INSTALL_AND_START * runs)]

  def test_is_watched_again_after_ctrl_c(self):
    self.do([WAIT])
    with started(*self.args("run"), stderr=subprocess.PIPE) as launcher:
      wait_for(self.out / "runs-0", self.out / "runs-1")
      launcher.send_signal(signal.SIGINT)
      assert "the run goes on in n" in launcher.communicate()[1]
      assert launcher.returncode == 130
    with started(*self.args("run"), stderr=subprocess.PIPE) as launcher:
      assert launcher.stderr
      assert "watching" in launcher.stderr.readline()
      (self.out / "go").write_text("0")
      launcher.communicate(timeout=DEADLINE_SECS)
      assert launcher.returncode == 0
    assert self.calls() == ["create", *INSTALL_AND_START]

  def test_something_else_running_is_left_alone(self):
    self.do([WAIT])
    with started(*self.args("run"), stderr=subprocess.DEVNULL) as launcher:
      wait_for(self.out / "runs-0", self.out / "runs-1")
      done = run(*self.args("run"), "--config.seed=2")
      assert done.returncode == 1
      assert "runs something else" in done.stderr
      (self.out / "go").write_text("0")
      assert launcher.wait(DEADLINE_SECS) == 0
    assert self.calls() == ["create", *INSTALL_AND_START]

  def test_stop_lets_it_save_and_does_not_start_it_again(self):
    stop = (
      'trap "sleep 0.1; exit 75" TERM; touch "$OUT/ready-$WORKER";'
      "while :; do sleep 0.02; done"
    )
    self.do([stop])
    with started(*self.args("run"), stderr=subprocess.DEVNULL) as launcher:
      wait_for(self.out / "ready-0", self.out / "ready-1")
      status = self.launch("status").stdout
      assert status == "n: READY\nworker 0: running\nworker 1: running\n"
      assert self.launch("stop").returncode == 0
      assert launcher.wait(DEADLINE_SECS) == 75
    assert self.calls()[-2:] == ["ssh start", "ssh stop"]
    assert "worker 0: asked\n" in self.launch("status").stdout

  @pytest.mark.parametrize(
    ("states", "expected"),
    [
      (["READY"], []),
      (["CREATING", "broken", "REPAIRING", "READY"], []),
      (["PREEMPTED"], ["delete", "create"]),
      (["TERMINATED"], ["delete", "create"]),
      (["DELETING", ""], ["create"]),
    ],
  )
  def test_create_does_what_the_state_asks_for(self, states, expected):
    (self.out / "states").write_text("\n".join(states) + "\n")
    assert self.launch("create", "--poll_secs=0").returncode == 0
    assert self.calls() == expected

  def test_create_asks_again_while_there_is_no_capacity(self):
    refusals = self.out / "refusals"
    full = "There is no more capacity in the zone\n"
    refusals.write_text(full * 3)
    done = self.launch("create", "--poll_secs=0", "--capacity_tries=3")
    assert done.returncode == 1
    assert "no capacity for v3-512 in z" in done.stderr
    assert self.calls() == ["create"] * 3
    refusals.write_text(full * 2)
    done = self.launch("create", "--poll_secs=0", "--capacity_tries=3")
    assert done.returncode == 0
    assert self.calls() == ["create"] * 6

  def test_create_gives_up_on_other_errors(self):
    (self.out / "refusals").write_text("Permission denied\n" * 9)
    done = self.launch("create", "--poll_secs=0")
    assert done.returncode == 1
    assert "Permission denied" in done.stderr
    assert self.calls() == ["create"] * 3

  def test_pod_that_was_stopped_is_left_alone(self):
    (self.out / "state").write_text("STOPPED\n")
    done = self.launch("create", "--poll_secs=0")
    assert done.returncode == 1
    assert "n is STOPPED" in done.stderr
    assert self.calls() == []

  def test_installation_that_fails_says_why(self):
    self.do(["exit 0"])
    done = self.launch("run", "--setup=echo no such bucket; false")
    assert done.returncode == 1
    assert "no such bucket" in done.stderr
    assert self.calls() == ["create", *(["scp", "ssh install"] * 3)]
    assert not (self.out / "runs-0").exists()
