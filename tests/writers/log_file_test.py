import logging as std_logging
import threading

import pytest
from absl import logging
from etils import epath

from bit_jax import progress
from bit_jax.errors import InputError, StoppedError
from bit_jax.storage import remote
from bit_jax.writers import log_file


def test_a_run_that_goes_on_appends_to_what_was_shown(tmp_path, capsys):
  for number in range(2):
    with log_file.LogFile() as log:
      progress.say(f"before {number}")
      log.open(tmp_path)
      progress.say("two\nlines")
      progress.note("a bar on a terminal")
  once = "two\nlines\na bar on a terminal\n"
  assert (tmp_path / "log.txt").read_text() == (
    f"before 0\n{once}before 1\n{once}"
  )


def test_nothing_is_written_without_a_work_directory(tmp_path, capsys):
  with log_file.LogFile():
    progress.say("is finished")
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ("error", "last"),
  [
    (InputError("lr=x:\nexpected"), "error: lr=x: expected"),
    (StoppedError("stopped by SIGTERM"), "stopped by SIGTERM"),
    (KeyError("defect"), "KeyError: 'defect'"),
  ],
)
def test_what_ended_the_run_is_the_last_line(tmp_path, error, last):

  def run():
    with log_file.LogFile() as log:
      log.open(tmp_path)
      raise error

  with pytest.raises(type(error)):
    run()
  lines = (tmp_path / "log.txt").read_text().splitlines()
  assert lines[-1] == last
  assert ("Traceback" in lines[0]) == isinstance(error, KeyError)


def test_warnings_and_odd_names_are_kept(tmp_path, capsys, monkeypatch):
  # Pytest must not capture such a name: xdist cannot pass it on.
  monkeypatch.setattr(std_logging.getLogger(), "handlers", [])
  with log_file.LogFile() as log:
    log.open(tmp_path)
    logging.warning("%s is damaged", "caf\udce9.jpg")
    logging.info("chatter")
  logging.warning("later")
  capsys.readouterr()
  assert (tmp_path / "log.txt").read_text() == "caf\\udce9.jpg is damaged\n"


def test_a_log_that_cannot_be_written_ends_no_run(tmp_path, capsys):
  (tmp_path / "log.txt").mkdir()
  with log_file.LogFile() as log:
    log.open(tmp_path)
    progress.say("goes on")
  error = capsys.readouterr().err
  assert f"{tmp_path}/log.txt: cannot be written: " in error
  assert "the run goes on without" in error


def test_a_slow_disk_does_not_delay_the_loop(tmp_path, monkeypatch, capsys):
  may_write, real = threading.Event(), log_file._appending

  def slow(path):
    assert may_write.wait(60)
    return real(path)

  monkeypatch.setattr(log_file, "_appending", slow)
  with log_file.LogFile() as log:
    log.open(tmp_path)
    for step in range(100):
      progress.say(f"step {step}")  # It would wait here.
    may_write.set()
  assert (tmp_path / "log.txt").read_text().count("\n") == 100


def test_in_a_store(tmp_path, monkeypatch, capsys):
  # A local folder stands for the store.
  monkeypatch.setattr(remote, "is_remote", lambda path: True)
  monkeypatch.setattr(remote, "exists", lambda path: epath.Path(path).is_file())
  for number in range(2):
    with log_file.LogFile() as log:
      log.open(tmp_path)
      progress.say(f"run {number}")
  assert (tmp_path / "log.txt").read_text() == "run 0\nrun 1\n"
