"""Recognizes weight files by their content; says what is wrong with others."""

import contextlib
import zipfile
import zlib
from collections.abc import Iterator

import safetensors
from etils import epath

from bit_jax.errors import InputError, one_line
from bit_jax.storage import contents

SAFETENSORS = ".safetensors"

_TORCH = (
  "a PyTorch pickle can run any code and is not read; save the state dict with "
  "safetensors.torch.save_file"
)
_AGAIN = "download or copy the file again"
# What to do about files that are something else.
_ADVICE = {
  "empty": _AGAIN,
  contents.POINTER: "get the file with git lfs pull",
  contents.PAGE: "download the file itself, not the page about it",
  contents.PICKLE: _TORCH,
  contents.TORCH: _TORCH,
  contents.ZEROS: _AGAIN,
}
_OTHERS = (
  "expected .npz or .safetensors: unpack it, or save its arrays as one of them"
)


@contextlib.contextmanager
def explaining(path: epath.Path) -> Iterator[None]:
  """Converts errors that libraries raise for damaged files to InputError."""
  try:
    yield
  except InputError:
    raise
  except (
    *(ValueError, KeyError, OSError, EOFError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, safetensors.SafetensorError),
  ) as e:
    reason = one_line(e)
    if "Object arrays" in reason:
      reason = "an array holds Python objects, which are not read"
    # NumPy takes any file that is no zip file for a pickle.
    elif "pickle" in reason:
      reason = "it is no zip archive of arrays"
    elif "not a zip file" in reason:
      reason = f"its end is missing: {_AGAIN}"
    elif "not fully covered" in reason:
      reason = f"it is shorter or longer than its header says: {_AGAIN}"
    raise InputError(f"{_not_readable(path)} ({reason})") from e


def _not_readable(path: epath.Path) -> str:
  kind = path.suffix if path.suffix in (SAFETENSORS, ".npz") else "weight"
  return f"weights {path}: not a readable {kind} file"


def is_safetensors(path: epath.Path, local: epath.Path) -> bool:
  """Returns True for .safetensors, False for .npz, by the file's content.

  Raises:
    InputError: The file is something else.
  """
  kind = contents.describe(local)
  if kind in (contents.NPZ, contents.SAFETENSORS):
    return kind == contents.SAFETENSORS
  if kind == contents.NPY:
    raise InputError(f"weights {path}: expected .npz, found .npy")
  if kind == contents.TAR:
    kind = "a tar archive"
  # These have no first bytes of their own.
  if ".data-" in path.name or path.suffix in (".index", ".meta"):
    kind = "a part of a TensorFlow checkpoint"
  elif not kind:
    kind = {
      **dict.fromkeys((".bin", ".pt", ".pth"), contents.PICKLE),
      ".pb": "a TensorFlow graph",
      ".onnx": "an ONNX model",
    }.get(path.suffix, "")
  if not kind:
    return path.suffix == SAFETENSORS
  advice = _ADVICE.get(kind, _OTHERS)
  if kind.startswith(contents.TEXTS):
    advice = f"expected .npz or .safetensors; {_AGAIN}"
  raise InputError(f"{_not_readable(path)}: it is {kind}; {advice}")
