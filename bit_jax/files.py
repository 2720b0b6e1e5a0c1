"""Small files, written as a whole or not at all."""

from etils import epath

from bit_jax import remote


def write_text(path: epath.PathLike, text: str) -> None:
  """Writes a file beside its place and moves it there.

  Args:
    path: of the file; its folder must exist.
    text: what it holds, in UTF-8.

  Raises:
    OSError: it cannot be written; a file that was there stays as it was.
  """
  path = epath.Path(path)
  if remote.is_remote(path):
    with remote.os_errors():
      path.write_bytes(text.encode())  # An object appears as a whole.
    return
  part = path.with_name(path.name + ".part")
  part.write_text(text)
  part.replace(path)
