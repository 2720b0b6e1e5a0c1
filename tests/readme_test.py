"""README files are true: commands, paths, keys, links and Python in them.

Commands are parsed by the very programs they name, which stop before they do
anything; launchers print what they would run. A command that is not understood
here fails: teach the test, or take the command out.
"""

import argparse
import fnmatch
import importlib
import os
import pathlib
import re
import shlex
import subprocess
import tomllib

import cv2
import jax
import numpy as np
import pytest
from absl import flags

import bit_jax.main
from bit_jax import errors, models, weights
from bit_jax.recipe import check, load
from bit_jax.storage import checkpoint
from configs import downstream

ROOT = pathlib.Path(__file__).resolve().parents[1]
READMES = [
  ROOT / "README.md",
  *sorted(
    path
    for folder in ("bit_jax", "configs", "measured", "scripts")
    for path in (ROOT / folder).rglob("README.md")
  ),
]
CHANGELOG = ROOT / "bit_jax/CHANGELOG.md"
# Stands for a name to be filled in.
PLACEHOLDER = re.compile(r"\bNAME\b")
LAUNCHERS = ("local", "slurm", "tpu_pod")


def blocks(path, language):
  """Yields (line number, text) of the fenced blocks in a language."""
  text = path.read_text()
  for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.S | re.M):
    if match[1] == language:
      yield text.count("\n", 0, match.start()) + 2, match[2]


def commands(path):
  """Yields (line number, words) of the commands in a file's shell blocks."""
  for start, block in blocks(path, "sh"):
    number, waiting = start, ""
    for line in block.splitlines():
      if line.endswith("\\"):
        waiting += line[:-1]
      else:
        words = shlex.split(waiting + line, comments=True)
        while words:
          end = words.index("&&") if "&&" in words else len(words)
          yield number, words[:end]
          words = words[end + 1 :]
        waiting = ""
      number += 1
    assert not waiting, f"{path}: a block ends with a backslash"


def inline(path):
  """Returns the inline code of a file."""
  text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.S | re.M)
  return [span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", text)]


def cases(find):
  """Returns what `find` yields for all README files, as parameters."""
  return [
    pytest.param(value, id=f"{path.relative_to(ROOT)}:{number}")
    for path in READMES
    for number, value in find(path)
  ]


@pytest.fixture
def understand(monkeypatch, tmp_path, mesh):
  """A function that takes the words of a command and fails if it is wrong."""
  monkeypatch.chdir(ROOT)
  monkeypatch.setattr(checkpoint, "silence_orbax", lambda: None)
  for name in ("CUDA_VISIBLE_DEVICES", "XLA_FLAGS", "JAX_PLATFORMS"):
    monkeypatch.delenv(name, raising=False)

  def run_main(words, needs_workdir=True):
    """Makes and checks the config, and parses the flags of bit_jax.main."""
    given = dict(word.removeprefix("--").split("=", 1) for word in words)
    overrides = [word for word in words if word.startswith("--config.")]
    config = load.load_config(given.pop("config"), overrides)
    check.check(config, mesh)
    assert not needs_workdir or "workdir" in given
    for key, value in given.items():
      if not key.startswith("config."):
        flags.FLAGS[key].parser.parse(value)

  def reach_the_work(module, words):
    """Runs main of a command up to what it hands to `exit_status`."""
    reached = []
    with monkeypatch.context() as patch:
      for holder in {module, errors}:
        patch.setattr(
          holder,
          "exit_status",
          lambda work: reached.append(work) or 0,
          raising=False,
        )
      assert module.main(words) == 0
    assert reached, f"{module.__name__} did nothing"

  def run_study(words):
    module = importlib.import_module("bit_jax.tools.study.__main__")
    reach_the_work(module, words)
    spec = next(w for w in words if w.startswith("--study=")).partition("=")[2]
    study = module.load_study(spec)
    for run in study.runs:
      load.override(run.config, [w for w in words if w.startswith("--config.")])
    globs = [w[len("--runs=") :] for w in words if w.startswith("--runs=")]
    for glob in filter(None, ",".join(globs).split(",")):
      assert fnmatch.filter([run.name for run in study.runs], glob), glob

  def run_benchmark(words):
    module = importlib.import_module("scripts.benchmark.__main__")
    reach_the_work(module, words)
    parser = module.flags.make_parser("")
    args, overrides = parser.parse_known_args(words)
    for case in module.flags.make_cases(args, overrides):
      load.load_config(case.config, case.arguments)
    assert not args.check or args.check.is_file()

  def run_module(name, words):
    if name == "bit_jax.main":
      run_main(words)
    elif name in ("scripts.study", "bit_jax.tools.study.__main__"):
      run_study(words)
    elif name == "scripts.benchmark":
      run_benchmark(words)
    else:
      assert name.startswith(("bit_jax.tools.", "scripts.")), name
      module = importlib.import_module(name)
      if hasattr(module, "__path__"):
        module = importlib.import_module(f"{name}.__main__")
      reach_the_work(module, words)
      if module.__name__ == "bit_jax.tools.preflight":
        file = next(w for w in words if w.startswith("--config="))
        rest = [w for w in words if w.startswith("--config.")]
        load.load_config(file.removeprefix("--config="), rest)

  def run_launcher(script, words):
    end = words.index("--") if "--" in words else len(words)
    (tmp_path / "git").write_text("#!/bin/sh\necho 0123456789abcdef\n")
    (tmp_path / "git").chmod(0o755)
    done = subprocess.run(
      [script, *words[:end], "--dry_run", *words[end:]],
      env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
      capture_output=True,
      text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout
    if words[end + 1 :]:
      run_main(words[end + 1 :], needs_workdir="tpu_pod" not in script)

  def run_quickstart(words):
    class Parsed(Exception):  # noqa: N818
      pass

    def parse(parser, *_):
      original(parser, words)
      raise Parsed

    original = argparse.ArgumentParser.parse_args
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    with pytest.raises(Parsed):
      importlib.import_module("scripts.quickstart").main()

  def run_script(script, words):
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)
    name = pathlib.Path(script).stem
    if name in LAUNCHERS:
      run_launcher(script, words)
    elif name == "quickstart":
      run_quickstart(words)
    elif name == "test":
      # What pytest takes; -m and --cov are all that is promised.
      assert not words or words[0] == "-m" or words[0].startswith("--cov=")
    else:
      assert name in ("setup_env", "check", "run"), script
      assert not words or (name, *words) == ("setup_env", "dev")
      named = r"(?:scripts|measured)/[\w/]+\.\w+"
      for file in re.findall(named, pathlib.Path(script).read_text()):
        assert pathlib.Path(file).exists(), f"{script}: {file}"

  def install(words):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for word in words:
      name, extra, bounds = re.fullmatch(
        r"(\.|[\w-]+)(?:\[(\w+)\])?([<>=].*)?", word
      ).groups()
      if name == ".":
        assert not extra or extra in project["optional-dependencies"]
      elif bounds:  # The same as ours, of another build.
        assert f"{name}{bounds}" in project["dependencies"]

  def run(words):
    program, *rest = words
    if program == "taskset":
      assert rest[0] == "-c"
      run(rest[2:])
    elif words[:2] == ["python", "-m"]:
      run_module(rest[1], rest[2:])
    elif words == ["bit_jax", "--help"]:
      pass
    elif program == "bit_jax" and rest[1:] in ([], ["--help"]):
      assert rest[0] in bit_jax.main.VERBS
    elif program == "bit_jax":
      run_module(bit_jax.main.VERBS[rest[0]][0], rest[1:])
    elif program.startswith(("scripts/", ".ci/")):
      run_script(program, rest)
    elif words[:2] == ["pip", "install"]:
      install([word for word in rest[1:] if word != "-e"])
    elif all(word.startswith("--config.") for word in words):
      load.override(downstream.get_config(), words)
    else:
      # Others' programs, in the forms that are in use.
      assert words[:2] in (["git", "clone"], ["tar", "-xf"]) or words in (
        ["cd", "bit_jax_repo"],
        ["source", ".venv/bin/activate"],
      ), f"not understood: {shlex.join(words)}"

  return run


@pytest.mark.parametrize("words", cases(commands))
def test_a_command_is_understood_by_its_program(words, understand):
  understand(words)


@pytest.mark.parametrize(
  "words",
  [
    "python -m bit_jax.main --config=configs/downstream.py:data=x --workdir=x",
    "python -m bit_jax.main --config=configs/downstream.py --workdir=x "
    "--steps=1",
    "python -m bit_jax.main --config=configs/downstream.py --workdir=x "
    "--config.model.remat=all",
    "python -m bit_jax.main --config=configs/downstream.py",
    "bit_jax train --config=downstream:data=x --workdir=x",
    "bit_jax train --config=downstrem --workdir=x",
    "bit_jax trian --config=downstream --workdir=x",
    "bit_jax convert a.npz b.npz --to=timm",
    "bit_jax study --study=kshot:shot=1 --workdir=x",
    "python -m bit_jax.tools.convert a.npz b.npz --to=timm",
    "python -m bit_jax.tools.near_duplicates w.npz",
    "python -m scripts.study --study=configs/kshot.py:shot=1 --workdir=x",
    "python -m scripts.study --study=configs/kshot.py --workdir=x --runs=x",
    "python -m scripts.benchmark --mode=walk",
    "python -m scripts.benchmark --config.no.such=1",
    "scripts/quickstart.sh --dtype=float16",
    "scripts/launch/local.sh --process=2 -- --config=configs/downstream.py",
    "scripts/launch/local.sh -- --workdir=x --config=configs/nothing.py",
    "scripts/no_such.sh",
    "pip install '.[tpu]'",
    "pip install 'jax[tpu]>=0.1,<0.2'",
    "--config.no.such=1",
    "make all",
  ],
)
def test_a_wrong_command_fails(words, understand, capsys):
  with pytest.raises((Exception, SystemExit)):
    understand(shlex.split(words))


def texts(path):
  yield 1, path


@pytest.mark.parametrize("path", cases(texts))
def test_commands_keys_and_paths_within_the_text(path, understand, monkeypatch):
  config = downstream.get_config()
  tests = {p.name: p for p in (ROOT / "tests").rglob("*_test.py")}
  for span in inline(path):
    if PLACEHOLDER.search(span):
      continue
    if span.startswith(
      ("python -m ", "bit_jax ", "pip install ", "source ")
    ) or (re.match(r"(scripts/\w+\.sh|\.ci/run)", span)):
      understand(shlex.split(span))
    elif span.startswith("--config."):
      load.override(downstream.get_config(), [span])
    elif match := re.fullmatch(r"config((?:\.\w+)+)(=.*)?", span):
      value = config
      for key in match[1][1:].split(".") if span != "config.json" else ():
        value = value[key]
    elif re.match(r"(bit_jax|configs|scripts|tests|measured)/", span):
      assert (ROOT / span).exists() or (path.parent / span).exists(), span
    elif match := re.fullmatch(r"(?:tests/\S+/)?(\w+_test\.py)(::\S+)?", span):
      names = re.findall(r"^def (test_\w+)", tests[match[1]].read_text(), re.M)
      assert not match[2] or fnmatch.filter(names, match[2][2:]), span


def slugs(path):
  """Returns what GitHub calls the headings of a Markdown file."""
  headings = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
  kept = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
  return {heading.replace(" ", "-") for heading in kept}


@pytest.mark.parametrize(
  "path", [*READMES, CHANGELOG], ids=lambda p: str(p.relative_to(ROOT))
)
def test_links_lead_somewhere(path):
  for target in re.findall(r"\]\(([^)]+)\)", path.read_text()):
    if target.startswith("https://"):
      continue
    file, _, anchor = target.partition("#")
    found = (path.parent / file).resolve() if file else path
    assert found.exists(), target
    assert not anchor or anchor in slugs(found), target


@pytest.mark.parametrize(
  "path", READMES, ids=lambda p: str(p.relative_to(ROOT))
)
def test_blocks_are_in_a_language_that_is_checked(path):
  known = {"sh", "python", "text"}
  opening = re.findall(r"^```(.*)$", path.read_text(), re.M)[::2]
  assert {*opening} <= known
  assert "\t" not in path.read_text()
  # Indented blocks would go unseen.
  assert not re.search(r"\n\n    \S", path.read_text())


def python_blocks(path):
  return blocks(path, "python")


@pytest.mark.parametrize("code", cases(python_blocks))
def test_python_runs(code, tmp_path, monkeypatch, capsys):
  variant = "R14x0.03125"
  model = models.create(variant, num_classes=2)
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), np.zeros((1, 32, 32, 3))
  )
  params = jax.tree.map(lambda s: np.full(s.shape, 0.1, "f"), shapes["params"])
  stored = weights.Weights(
    params, {}, variant, ("cat", "dog"), {"crop": "none", "crop_px": 32}
  )
  weights.save_npz(tmp_path / "params.npz", stored)
  cv2.imwrite(str(tmp_path / "cat.jpg"), np.zeros((48, 40, 3), "u1"))
  monkeypatch.chdir(tmp_path)
  exec(code.replace("/tmp/photos", "params.npz"), {})
  assert re.match(r"(cat|dog) \(1, \d+\)\n", capsys.readouterr().out)


def rows(path):
  """Yields the cells of all tables."""
  for line in path.read_text().splitlines():
    if line.startswith("|"):
      yield [cell.strip() for cell in line.strip("|").split("|")]


def test_what_was_moved_is_where_the_changelog_says():
  count = 0
  for before, now in rows(CHANGELOG):
    for name in re.findall(r"`((?:bit_jax|scripts)\.[\w.]+)`", now):
      parts, rest = name.split("."), []
      while not (
        (path := ROOT.joinpath(*parts).with_suffix(".py")).exists()
        or (path := ROOT.joinpath(*parts, "__init__.py")).exists()
      ):
        rest.append(parts.pop())
        assert parts, f"{name} is not there"
      count += 1
      for word in rest:
        assert re.search(rf"\b{word}\b", path.read_text()), name
      assert f"`{name}`" != before
  assert count > 50
