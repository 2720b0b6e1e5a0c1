"""Counts what a folder of images holds and is not used, and says it."""

import collections
import os
from collections.abc import Sequence

from bit_jax.data.formats import kinds
from bit_jax.errors import some

_NO_ENDING = "no ending"
_ADD_ENDING = "an image: end its name as its format does, such as in .jpg"
# {what a file is and what to do: its endings}.
_KINDS = {
  "HEIC: convert it to JPEG": (".heic", ".heif", ".hif"),
  "AVIF: convert it to PNG": (".avif",),
  "JPEG XL: convert it to PNG": (".jxl",),
  "JPEG 2000: convert it to PNG": (".jp2", ".j2k", ".jpx", ".jpf", ".j2c"),
  "a raw photo: convert it to JPEG": (
    *(".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".dng"),
    *(".orf", ".rw2", ".raf", ".pef", ".srw", ".x3f", ".raw", ".3fr", ".iiq"),
  ),
  "a drawing: convert it to PNG": (".svg", ".svgz", ".eps", ".ai", ".emf"),
  "a file of an image editor: convert it to PNG": (".psd", ".psb", ".xcf"),
  "an image of a rare format: convert it to PNG": (
    *(".ppm", ".pgm", ".pbm", ".pnm", ".pam", ".tga", ".pcx", ".ico", ".cur"),
    *(".exr", ".hdr", ".dds", ".ras", ".sgi", ".xbm", ".xpm", ".jxr", ".wdp"),
    *(".icns", ".bpg", ".flif", ".qoi", ".mng", ".jpm", ".jls"),
  ),
  "a document: convert its pages to PNG": (".pdf", ".djvu"),
  "a medical image: convert it to PNG": (".dcm", ".dicom", ".nii", ".nii.gz"),
  "an array: write it as PNG": (".npy", ".npz", ".mat", ".h5", ".hdf5"),
  "a film: extract its frames": (
    *(".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"),
    *(".wmv", ".3gp", ".mts"),
  ),
  "an archive: unpack it": (
    *(".zip", ".tar", ".gz", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".bz2"),
    *(".xz", ".rar", ".7z", ".tbz2", ".txz", ".tar.zst", ".zst"),
  ),
  "a download that is not complete": (
    *(".crdownload", ".part", ".partial", ".download", ".opdownload"),
  ),
  "not downloaded from iCloud yet": (".icloud",),
}
_ADVICE = {end: text for text, endings in _KINDS.items() for end in endings}
_SHOWN = 5


def what_is(path: str) -> str:
  """Returns what a file is by its ending, and what to do; '' if unknown."""
  return _ADVICE.get(_ending(path), "")


class LeftOut:
  """Counts the files and folders of an image folder that are not used."""

  def __init__(self, root: str):
    """Starts with nothing; `root` is the folder that the paths are below."""
    self._root = root.rstrip("/")
    self._start = len(self._root) + 1
    self._endings = collections.Counter()
    self._first: dict[str, str] = {}
    self._loose: list[str] = []
    self._links: list[str] = []
    self._links_up: list[str] = []
    self._folders: list[str] = []
    self._empty: list[str] = []
    self.own: list[str] = []

  def add_file(self, path: str, is_image: bool = False) -> None:
    """Counts a file, by default one that is no image by its name."""
    name = path[self._start :]
    if is_image:
      self._loose.append(name)
    elif os.path.islink(path) and not os.path.exists(path):
      self._links.append(name)
    else:
      self.add_name(name)

  def add_name(self, name: str) -> None:
    """Counts a file that is no image, by a name relative to the root."""
    ending = _ending(name)
    self._endings[ending] += 1
    self._first.setdefault(ending, name)

  def add_folder(self, path: str) -> None:
    """Counts a folder beside the splits."""
    self._folders.append(path[self._start :])

  def add_empty(self, path: str) -> None:
    """Counts a class folder without images."""
    self._empty.append(path[self._start :])

  def add_link_up(self, path: str) -> None:
    """Counts a link in a class folder to a folder that the class is in."""
    self._links_up.append(path[self._start :])

  def add_own(self, path: str) -> None:
    """Counts a work directory or a cache of bit_jax."""
    self.own.append(path[self._start :])

  def merge(self, other: "LeftOut") -> None:
    """Adds what another one has counted below the same root."""
    self._endings += other._endings
    self._first = other._first | self._first
    lists = ("_loose", "_links", "_links_up", "_folders", "_empty", "own")
    for name in lists:
      getattr(self, name).extend(getattr(other, name))

  def files(self) -> str:
    """Returns the number of files that are no images, as text; '' if none."""
    if not self._endings:
      return ""
    count = self._endings.total()
    common = self._endings.most_common()
    shown = ", ".join(f"{end} {n:,}" for end, n in common[:_SHOWN])
    if len(common) > _SHOWN:
      shown += f" and {len(common) - _SHOWN} other endings"
    what = "file that is no image" if count == 1 else "files that are no images"
    text = f"{count:,} {what} by name ({shown}), such as "
    text += self._first[common[0][0]]
    # Several endings of one kind need their advice only once.
    advice = dict.fromkeys(self._advice(end) for end, _ in common)
    said = "; ".join(filter(None, advice))
    return text + (f" ({said})" if said else "")

  def _advice(self, ending: str) -> str:
    """Returns what to do about files that end so; '' if nothing is known."""
    if ending in _ADVICE:
      return _ADVICE[ending]
    # An image that was saved as `1.jpg_large` or without an ending; a LICENSE
    # needs no advice.
    try:
      with open(os.path.join(self._root, self._first[ending]), "rb") as file:
        start = file.read(kinds.START)
    except OSError:  # Such as a file in a tar.
      return ""
    return _ADD_ENDING if kinds.kind_of(start) else ""

  def holds(self) -> str:
    """Returns the end of the message that there are no images; '' if empty."""
    return f"; it holds {self.files()}" if self._endings else ""

  def text(self) -> str:
    """Returns all that was counted in one line; '' for nothing."""
    parts = [
      self.files(),
      _named(self._loose, "image|images", "in no class folder"),
      _named(self._folders, "other folder|other folders", "beside the splits"),
      _named(self._empty, "class folder|class folders", "without images"),
      _named(self._links, "link to nothing|links to nothing"),
      _named(self._links_up, "link|links", "to a folder above"),
      _named(self.own, "folder|folders", "that bit_jax wrote"),
    ]
    return "; ".join(part for part in parts if part)


def _named(names: Sequence[str], what: str, more: str = "") -> str:
  if not names:
    return ""
  one, several = what.split("|")
  text = f"{len(names):,} {one if len(names) == 1 else several}"
  return f"{text}{more and f' {more}'}: {some(names)}"


def _ending(path: str) -> str:
  name = os.path.basename(path).lower()
  stem, ending = os.path.splitext(name)
  if os.path.splitext(stem)[1] in (".tar", ".nii"):
    ending = os.path.splitext(stem)[1] + ending
  # A name such as `Fig. 3 of the report` has a dot and no ending.
  is_word = len(ending) < 16 and not any(map(str.isspace, ending))
  return ending if ending and is_word else _NO_ENDING
