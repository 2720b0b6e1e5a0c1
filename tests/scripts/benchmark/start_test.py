import os
import sys

import pytest

from bit_jax.errors import InputError
from scripts.benchmark import start as benchmark_start
from scripts.benchmark.flags import Case

LINE = (
  "first step after 29.3 s: data 0.8, state 5.7, compiling and running the "
  "step 22.9\n"
)


def test_lines_of_the_main_command():
  found = {}
  assert not benchmark_start.parse("imported in 2.2 s\n", found)
  assert not benchmark_start.parse("glyphs: 3 s\n", found)
  assert benchmark_start.parse(LINE, found)
  assert found == {
    "imports": 2.2,
    "after imports": 29.3,
    "data": 0.8,
    "state": 5.7,
    "compiling and running the step": 22.9,
  }


def script(text):
  return [sys.executable, "-u", "-c", text]


def test_a_run_ends_with_its_first_step():
  endless = f"import time; print({LINE!r}); time.sleep(1000)"
  found = benchmark_start.start(script(endless), os.environ)
  assert found["state"] == 5.7
  assert 0 < found["first step"] < 60


def test_a_run_without_a_step_fails():
  with pytest.raises(InputError, match="^the run fails: no data$"):
    benchmark_start.start(script("print('error: no data')"), os.environ)


def test_a_start_with_an_empty_cache_and_one_with_a_filled_one(
  monkeypatch, capsys
):
  seen = []

  def start(command, env):
    cache = env["JAX_COMPILATION_CACHE_DIR"]
    seen.append((command, cache, os.path.exists(cache)))
    os.makedirs(cache, exist_ok=True)
    return {"first step": 9.0 - len(seen), "data": 1.0}

  monkeypatch.setattr(benchmark_start, "start", start)
  case = Case("start", "R14x0.5", 32, 8)
  empty, filled = benchmark_start.run(case, rounds=2)["subjects"]
  printed = capsys.readouterr().out.splitlines()
  assert len(printed) == 4
  assert printed[1] == "round 1 of 2, filled: first step after 7.0 s"
  assert (empty["name"], filled["name"]) == ("empty cache", "filled")
  assert empty["first_step_secs"]["rounds"] == [8.0, 6.0]
  assert filled["first_step_secs"]["rounds"] == [7.0, 5.0]
  assert filled["parts_secs"]["data"]["median"] == 1.0
  assert "first step" not in filled["parts_secs"]
  assert [existed for _, _, existed in seen] == [False, True] * 2
  assert len({cache for _, cache, _ in seen}) == 2
  command = seen[0][0]
  assert command[1:4] == [
    *("-m", "bit_jax.main", "--config=configs/upstream.py")
  ]
  assert "--config.model.variant=R14x0.5" in command
  assert command[-1] == "--config.data.name=glyphs"
  # Each start has a work directory of its own.
  assert len({command[4] for command, _, _ in seen}) == 4


def test_data_can_be_chosen(monkeypatch):
  commands = []

  def start(command, env):
    commands.append(command)
    return {"first step": 1.0}

  monkeypatch.setattr(benchmark_start, "start", start)
  case = Case("start", overrides=("data.name=digits",))
  benchmark_start.run(case, rounds=1)
  assert commands[0][-1] == "--config.data.name=digits"
