import json
import shutil
import sys

import pytest

from bit_jax.errors import InputError
from bit_jax.tools import prepare


@pytest.fixture(autouse=True)
def _no_real_environment(monkeypatch):
  """Makes the first real command fail: a broken test must not install TF."""
  monkeypatch.setattr("sys.executable", shutil.which("false"))


def write_info(version_dir, **formats):
  version_dir.mkdir(parents=True, exist_ok=True)
  path = version_dir / "dataset_info.json"
  path.write_text(json.dumps({"version": version_dir.name, **formats}))


class FakeRunner:
  """Records commands; for `tfds` calls on_tfds and returns status."""

  def __init__(self, on_tfds=lambda: None, status=0):
    self.commands = []
    self.on_tfds = on_tfds
    self.status = status

  def __call__(self, command):
    self.commands.append(command)
    if not command[0].endswith("/tfds"):
      return 0
    self.on_tfds()
    return self.status

  @property
  def tfds_args(self):
    return self.commands[-1][1:]


def must_not_run(command):
  pytest.fail(f"ran {command}")


def build(name, tmp_path, version_dir):
  """Prepares `name` with a runner that builds version_dir; returns it."""
  runner = FakeRunner(
    lambda: write_info(tmp_path / version_dir, fileFormat="array_record")
  )
  prepare.prepare(name, str(tmp_path), run=runner)
  return runner


def test_builds_in_an_environment_of_its_own(tmp_path, capsys):
  runner = build("cifar10", tmp_path, "cifar10/3.0.2")

  make, install, tfds = runner.commands
  assert make[:3] == [sys.executable, "-m", "venv"]
  env = make[3]
  assert install[:4] == [f"{env}/bin/python", "-m", "pip", "install"]
  assert any(r.startswith("tensorflow") for r in install)
  assert all("<" in r for r in install[5:]), "unbounded requirement"
  assert tfds[:3] == [f"{env}/bin/tfds", "build", "cifar10"]
  assert "--file_format=array_record" in tfds
  assert f"--data_dir={tmp_path}" in tfds
  # Without the flag, tfds would take `./cifar10` for a script that builds it.
  assert "--imports=tensorflow_datasets" in tfds
  out, err = capsys.readouterr()
  assert [line[:2] for line in err.splitlines()] == ["$ "] * 3
  assert out == f"{tmp_path}/cifar10/3.0.2 is ready\n"


@pytest.mark.parametrize("status", [0, 1])
def test_removes_the_throw_away_environment(tmp_path, monkeypatch, status):
  scratch = tmp_path / "scratch"
  scratch.mkdir()
  monkeypatch.setattr("tempfile.tempdir", str(scratch))
  existed = []
  runner = FakeRunner(
    lambda: existed.append(any(scratch.iterdir())), status=status
  )
  with pytest.raises(InputError):
    prepare.prepare("cifar10", str(tmp_path), run=runner)
  assert existed == [True]
  assert not any(scratch.iterdir())


@pytest.mark.parametrize("content", ["", "pyvenv.cfg"])
def test_keeps_and_reuses_a_named_environment(tmp_path, content):
  venv = tmp_path / "venv"
  venv.mkdir()
  if content:
    (venv / content).touch()
  runner = FakeRunner(
    lambda: write_info(tmp_path / "mnist/3.0.1", fileFormat="array_record")
  )
  prepare.prepare("mnist", str(tmp_path), str(venv), run=runner)
  assert runner.commands[0][3] == str(venv)
  assert runner.commands[2][0] == f"{venv}/bin/tfds"
  assert venv.is_dir()


def test_converts_what_is_there_as_tfrecord(tmp_path, capsys):
  version_dir = tmp_path / "my_set" / "1.0.0"
  write_info(version_dir, fileFormat="tfrecord")
  runner = FakeRunner(
    lambda: write_info(
      version_dir,
      fileFormat="tfrecord",
      alternativeFileFormats=["array_record"],
    )
  )
  prepare.prepare("my_set", str(tmp_path), run=runner)
  assert runner.tfds_args == [
    "convert_format",
    f"--dataset_version_dir={version_dir}",
    "--out_file_format=array_record",
    "--num_workers=1",
  ]
  assert capsys.readouterr().out.endswith(f"{version_dir} is ready\n")


@pytest.mark.parametrize(
  "formats",
  [
    {"fileFormat": "array_record"},
    {"fileFormat": "tfrecord", "alternativeFileFormats": ["array_record"]},
  ],
)
def test_leaves_array_record_alone(tmp_path, capsys, formats):
  write_info(tmp_path / "my_set" / "1.0.0", **formats)
  prepare.prepare("my_set", str(tmp_path), run=must_not_run)
  assert "nothing to do" in capsys.readouterr().out


def test_converts_the_newest_version_that_matches(tmp_path, capsys):
  for version in "3.9.0", "3.10.0", "4.0.0", "incomplete.X_5.0.0":
    write_info(tmp_path / "my_set" / version, fileFormat="tfrecord")
  for name, expected in (
    ("my_set", "4.0.0"),
    ("my_set:3.*.*", "3.10.0"),
    ("my_set:3.9.0", "3.9.0"),
  ):
    prepare.prepare(name, str(tmp_path), dry_run=True, run=must_not_run)
    out = capsys.readouterr().out
    assert f"--dataset_version_dir={tmp_path}/my_set/{expected} " in out


def test_names_the_default_config(tmp_path):
  runner = build("sun397", tmp_path, "sun397/tfds/4.0.0")
  assert runner.tfds_args[1] == "sun397/tfds"


def test_finds_the_default_config_on_disk(tmp_path):
  write_info(tmp_path / "sun397/tfds/4.0.0", fileFormat="array_record")
  prepare.prepare("sun397", str(tmp_path), run=must_not_run)


def test_passes_config_and_version_on(tmp_path):
  name = "imagenet_resized/32x32:0.1.0"
  runner = build(name, tmp_path, "imagenet_resized/32x32/0.1.0")
  assert runner.tfds_args[1] == name


def test_dry_run_prints_and_runs_nothing(tmp_path, capsys):
  data_dir = tmp_path / "data"
  args = ["cifar10", f"--data_dir={data_dir}", "--dry_run"]
  assert prepare.main(args) == 0
  out = capsys.readouterr().out
  assert " -m venv " in out
  assert " -m pip install " in out
  assert "/tfds build cifar10 " in out
  assert not any(tmp_path.iterdir())


def test_paths_are_made_absolute(tmp_path, monkeypatch, capsys):
  # The commands do not expand `~`, so their paths must be absolute.
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("HOME", str(tmp_path / "home"))
  args = ["cifar10", "--data_dir=~/data", "--venv=env", "--dry_run"]
  assert prepare.main(args) == 0
  out = capsys.readouterr().out
  assert f"--data_dir={tmp_path}/home/data " in out
  assert f"\n$ {tmp_path}/env/bin/tfds " in out


def test_an_interrupt_ends_quietly(tmp_path, monkeypatch, capsys):
  def interrupt(*args):
    raise KeyboardInterrupt

  monkeypatch.setattr(prepare, "prepare", interrupt)
  assert prepare.main(["cifar10", f"--data_dir={tmp_path}"]) == 130
  assert capsys.readouterr().err == ""


def test_a_failed_command_ends_in_one_line(tmp_path, monkeypatch, capsys):
  # The real runner runs venv first, which the fixture makes fail.
  scratch = tmp_path / "scratch"
  scratch.mkdir()
  monkeypatch.setattr("tempfile.tempdir", str(scratch))
  assert prepare.main(["cifar10", f"--data_dir={tmp_path}"]) == 1
  assert capsys.readouterr().err.splitlines()[1:] == [
    "error: false -m venv failed with exit status 1; its own message is above"
  ]


def test_the_output_of_other_commands_is_no_result(capfd):
  assert prepare._call(["echo", "chatter"]) == 0
  assert capfd.readouterr() == ("", "chatter\n")


def test_a_conversion_must_convert_the_version_it_was_given(tmp_path):
  write_info(tmp_path / "my_set" / "1.0.0", fileFormat="tfrecord")
  # Another version, built by another process meanwhile, is no success.
  runner = FakeRunner(
    lambda: write_info(tmp_path / "my_set/2.0.0", fileFormat="array_record")
  )
  with pytest.raises(InputError, match="without array_record"):
    prepare.prepare("my_set", str(tmp_path), run=runner)


def test_success_without_result_is_a_failure(tmp_path):
  write_info(tmp_path / "my_set" / "1.0.0", fileFormat="tfrecord")
  with pytest.raises(InputError, match=f"without array_record.*{tmp_path}"):
    prepare.prepare("my_set", str(tmp_path), run=FakeRunner())


def test_files_to_be_fetched_by_hand(tmp_path, capsys):
  manual_dir = tmp_path / "downloads" / "manual"
  args = ["imagenet2012", f"--data_dir={tmp_path}", "--dry_run"]
  assert prepare.main(args) == 1
  out, err = capsys.readouterr()
  assert "ILSVRC2012_img_train.tar" in out
  assert "$" not in out
  assert err.count("\n") == 1
  assert f"into {manual_dir} and" in err

  manual_dir.mkdir(parents=True)
  assert prepare.main(args) == 1
  (manual_dir / "NWPU-RESISC45.rar").touch()  # Of another set.
  assert prepare.main(args) == 1
  (manual_dir / "ILSVRC2012_img_train.tar").touch()
  capsys.readouterr()
  assert prepare.main(args) == 0
  assert "where ILSVRC2012_img_val.tar is not" in capsys.readouterr().err
  (manual_dir / "ILSVRC2012_img_val.tar").touch()
  assert prepare.main(args) == 0
  assert not capsys.readouterr().err


def test_files_that_were_unpacked_by_hand(tmp_path):
  folder = tmp_path / "downloads" / "manual" / "NWPU-RESISC45"
  folder.mkdir(parents=True)
  data_dir = f"--data_dir={tmp_path}"
  assert prepare.main(["resisc45", data_dir, "--dry_run"]) == 0
  retina = ["diabetic_retinopathy_detection", data_dir, "--dry_run"]
  assert prepare.main(retina) == 1
  for name in ("test", "sample"):
    (folder.parent / name).mkdir()
  assert prepare.main(retina) == 0


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("cifer10", "no data set 'cifer10'; did you mean cifar10"),
    ("qqqqqqqq", "no data set 'qqqqqqqq'$"),
    ("sun397/nope", "sun397 has no config 'nope'; TFDS knows tfds, "),
    ("cifar10/nope", "cifar10 has no config 'nope'; TFDS knows none"),
    ("../secret", "'../secret' is not NAME"),
    ("cifar10:3", "'cifar10:3' is not NAME"),
  ],
)
def test_rejects_names_before_any_work(tmp_path, name, message):
  with pytest.raises(InputError, match=message):
    prepare.prepare(name, str(tmp_path), run=must_not_run)


def test_rejects_folders_it_cannot_use(tmp_path):
  file = tmp_path / "file"
  file.touch()

  def check(message, data_dir=str(tmp_path), venv=""):
    with pytest.raises(InputError, match=message):
      prepare.prepare("cifar10", data_dir, venv, run=must_not_run)

  check("gs://bucket is not a local folder", data_dir="gs://bucket")
  check("file is not a folder", data_dir=str(file))
  check("stays free of TensorFlow", venv=sys.prefix)
  check("is no virtual environment", venv=str(tmp_path))
  check("is no virtual environment", venv=str(file))


@pytest.mark.parametrize("text", ["{", "[]", '{"alternativeFileFormats": 1}'])
def test_names_a_broken_description(tmp_path, text):
  path = tmp_path / "my_set" / "1.0.0" / "dataset_info.json"
  path.parent.mkdir(parents=True)
  path.write_text(text)
  with pytest.raises(InputError, match=f"{path} is not a TFDS description"):
    prepare.prepare("my_set", str(tmp_path), run=must_not_run)


@pytest.mark.parametrize(
  "args",
  [
    [],
    ["cifar10"],
    ["--data_dir=x"],
    ["cifar10", "--data_dir=x", "--nope"],
    ["cifar10", "--data=x"],
  ],
)
def test_a_wrong_command_line_exits_2(args, capsys):
  with pytest.raises(SystemExit) as exit_info:
    prepare.main(args)
  assert exit_info.value.code == 2
  assert "error: " in capsys.readouterr().err
