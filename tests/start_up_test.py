"""What comes before the first step of a run: imports and compilations."""

import os
import pathlib
import subprocess
import sys
import textwrap

ROOT = pathlib.Path(__file__).resolve().parent.parent


def run(program, *args):
  """Runs a program in a process of its own; returns its last line."""
  done = subprocess.run(
    [sys.executable, "-c", textwrap.dedent(program), *map(str, args)],
    cwd=ROOT,
    env={**os.environ, "PYTHONPATH": str(ROOT)},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  return done.stdout.splitlines()[-1]


def imported(program, *names):
  """Returns which of the packages a program imports."""
  program += f"; import sys; print(*(n for n in {names} if n in sys.modules))"
  return run(program).split()


def test_flags_are_read_before_anything_heavy_is_imported():
  heavy = ("jax", "flax", "grain", "orbax", "cv2", "numpy")
  assert imported("import bit_jax.main", *heavy) == []


def test_a_run_imports_only_what_it_uses():
  unused = (
    *("matplotlib", "sklearn", "scipy.stats", "pandas", "tensorboard"),
    *("tensorflow_datasets", "tensorflow", "IPython", "torch", "gcsfs"),
  )
  program = """import bit_jax.train
from bit_jax.data import datasets
datasets.open_dataset("digits")"""
  assert imported(program, "jax", *unused) == ["jax"]


def test_each_function_is_compiled_once(tmp_path):
  program = """
    import sys
    import jax
    from bit_jax import train
    from bit_jax.recipe import load

    compiled = []

    def listen(event, duration, fun_name="", **_):
      if event.endswith("backend_compile_duration"):
        compiled.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    config = load.load_config(
      "configs/downstream.py:preset=quick,model=R14x0.0625,dataset=digits",
      [
        "--config.total_steps=4",
        "--config.input.batch_size=8",
        "--config.data.eval_splits=test[:90],train[:21]",
        "--config.eval.every_steps=2",
        "--config.eval.fewshot=digits",
        "--config.eval.fewshot_shots=(1,)",
        "--config.checkpoint.every_steps=3",
      ],
    )
    train.train_and_evaluate(config, sys.argv[1])
    print(*sorted(compiled))
  """
  # `step` is that of evaluation, and that of few-shot features.
  wanted = (
    "jit(_digests) jit(fold) jit(init_state) jit(step) jit(step) "
    "jit(update_step)"
  )
  assert run(program, tmp_path) == wanted
