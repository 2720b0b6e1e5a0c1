import errno
import http.client
import socket
import urllib.error

import pytest

from bit_jax import errors


def test_long_lists_are_cut():
  assert errors.some(["d", "b", "c", "a"]) == "a, b, c and 1 more"
  assert errors.some(iter("ba")) == "a, b"
  assert errors.some([]) == ""


@pytest.mark.parametrize(
  ("error", "status", "message"),
  [
    (None, 0, ""),
    (errors.InputError("a\n b"), 1, "error: a b\n"),
    (errors.UsageError(), 2, "error: UsageError\n"),
    (KeyboardInterrupt(), 130, ""),
  ],
)
def test_how_a_command_ends(capsys, error, status, message):
  def command():
    if error:
      raise error

  assert errors.exit_status(command) == status
  assert capsys.readouterr().err == message


def tensorstore(code, status="INTERNAL"):
  return ValueError(f"{status}: Failed to write [os_error_code='{code}']")


@pytest.mark.parametrize(
  "error",
  [
    *(
      OSError(getattr(errno, name), "text")
      for name in (
        *("ENOSPC", "EDQUOT", "EIO", "ESTALE", "EMFILE", "ENFILE", "ENOMEM"),
        *("ETIMEDOUT", "ECONNRESET", "ENOTCONN", "EHOSTUNREACH", "EBUSY"),
      )
    ),
    *(MemoryError(), TimeoutError(), ConnectionError("reset")),
    http.client.RemoteDisconnected("closed"),
    socket.gaierror(socket.EAI_AGAIN, "try again"),
    urllib.error.URLError(OSError(errno.ETIMEDOUT, "slow")),
    tensorstore(errno.ENOSPC),
    tensorstore(errno.EIO, "UNKNOWN"),
    RuntimeError("write() failed: No space left on device; writing /x; at 1"),
    type("SafetensorError", (Exception,), {})("I/O error: full (os error 28)"),
    OSError("Connection reset by peer"),
    ValueError("UNAVAILABLE: the store does not answer"),
    ValueError("DEADLINE_EXCEEDED: too slow"),
    errors.UnavailableError("no host"),
  ],
  ids=repr,
)
def test_faults_of_the_machine_are_to_be_tried_again(capsys, error):
  assert isinstance(errors.failure("m", error), errors.UnavailableError)

  def read():
    try:
      raise error
    except type(error) as e:
      raise errors.InputError("photos/1.jpg: cannot\nbe read") from e

  assert errors.exit_status(read) == errors.UNAVAILABLE == 74
  assert capsys.readouterr().err == "error: photos/1.jpg: cannot be read\n"

  def unexpected():
    raise error

  assert errors.exit_status(unexpected) == 74


@pytest.mark.parametrize(
  "error",
  [
    FileNotFoundError(errno.ENOENT, "text"),
    *(
      OSError(getattr(errno, name), "text")
      for name in ("EACCES", "EISDIR", "ENOTDIR", "ENAMETOOLONG", "EFBIG")
    ),
    *(OSError("not an image"), KeyError("x"), ValueError("no JSON")),
    socket.gaierror(socket.EAI_NONAME, "no such host"),
    tensorstore(errno.EACCES, "PERMISSION_DENIED"),
    tensorstore(errno.EFBIG, "RESOURCE_EXHAUSTED"),
    type("SafetensorError", (Exception,), {})("I/O error: no (os error 2)"),
    # A user's word for it, not that of the library that writes.
    ValueError("batch: RESOURCE_EXHAUSTED"),
  ],
  ids=repr,
)
def test_faults_of_the_input_are_not(error):
  assert isinstance(errors.failure("m", error), errors.InputError)

  def read():
    try:
      raise error
    except type(error) as e:
      raise errors.InputError("cannot be read") from e

  assert errors.exit_status(read) == 1


def test_a_defect_is_neither(capsys):
  assert errors.exit_status(lambda: 1 / 0) == 70
  assert "ZeroDivisionError" in capsys.readouterr().err


def test_errors_raised_from_one_another_in_a_circle():
  first, second = OSError(errno.EACCES, "a"), OSError(errno.EPERM, "b")
  first.__context__, second.__context__ = second, first
  assert not errors.is_machine_fault(first)


@pytest.mark.parametrize(
  ("name", "found"),
  [
    ("CIFAR-10", ["cifar10"]),
    ("cifar_10", ["cifar10"]),
    ("cifar", ["cifar10", "cifar100"]),
    ("digit", ["digits"]),
    ("nothing", []),
    ("", []),
  ],
)
def test_nearest_names(name, found):
  assert errors.nearest(name, ("digits", "cifar100", "cifar10")) == found


def test_did_you_mean():
  assert errors.did_you_mean([]) == ""
  assert errors.did_you_mean(["a"]) == "; did you mean a?"
  assert errors.did_you_mean(["a", "b", "a"]) == "; did you mean a or b?"


def test_a_command_that_says_nothing_is_not_silent(ended):
  assert errors.exit_status(lambda: None) == 0
  assert ended == ["working ... 0 s"]
