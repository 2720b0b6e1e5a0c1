import io
import tarfile

import pytest

from bit_jax.errors import InputError
from bit_jax.tools.pack import tars

SIZE = 700


def add(tar, name, content=b"", kind=tarfile.REGTYPE, link=""):
  info = tarfile.TarInfo(name)
  info.size, info.type, info.linkname = len(content), kind, link
  tar.addfile(info, io.BytesIO(content))


@pytest.fixture
def make(tmp_path):
  """Returns a function from members to a tar's path."""

  def make(*members):
    path = tmp_path / "n01.tar"
    with tarfile.open(path, "w") as tar:
      for member in members:
        add(tar, *member)
    return path

  return make


@pytest.fixture
def whole(make):
  """A tar of three images: each takes a header and two blocks."""
  return make(*((f"{i}.jpg", bytes([i]) * SIZE) for i in range(3)))


def test_places_are_those_of_the_bytes(whole):
  data = whole.read_bytes()
  found, _ = tars.find(str(whole))
  assert list(found) == ["0.jpg", "1.jpg", "2.jpg"]
  for i, (offset, size) in enumerate(found.values()):
    assert data[offset : offset + size] == bytes([i]) * SIZE


@pytest.mark.parametrize("blocks", range(1, 9))
def test_a_cut_tar_is_refused_wherever_it_is_cut(whole, blocks):
  whole.write_bytes(whole.read_bytes()[: 512 * blocks])
  with pytest.raises(InputError, match=r"n01.tar: .*at byte [\d,]+") as error:
    tars.find(str(whole))
  at_member = f"at byte {512 * blocks:,}, after '{blocks // 3 - 1}.jpg'"
  assert (at_member in str(error.value)) == (blocks % 3 == 0)


def test_nothing_is_lost_where_only_padding_is(whole):
  data = whole.read_bytes()
  for length in (10 * 512, 11 * 512, len(data) + 512):
    whole.write_bytes(data.ljust(length, b"\0")[:length])
    assert len(tars.find(str(whole))[0]) == 3


@pytest.mark.parametrize("member", range(3))
@pytest.mark.parametrize("byte", [0, 100, 124, 150, 156, 257, 400])
def test_one_flipped_bit_in_a_header_is_refused(whole, member, byte):
  data = bytearray(whole.read_bytes())
  data[3 * 512 * member + byte] ^= 1
  whole.write_bytes(data)
  with pytest.raises(InputError, match="damaged|cannot be read as") as error:
    tars.find(str(whole))
  if member:
    assert f"at byte {1536 * member:,}, after" in str(error.value)


def test_joined_tars_are_refused(whole):
  data = whole.read_bytes()
  whole.write_bytes(data + data)
  with pytest.raises(InputError, match="more after its end mark at byte 4,608"):
    tars.find(str(whole))


def test_links_stand_for_the_files_they_lead_to(make):
  path = make(
    ("a/1.jpg", b"x" * 5),
    ("2.jpg", b"", tarfile.LNKTYPE, "./a/1.jpg"),
    ("b/3.jpg", b"", tarfile.SYMTYPE, "../a/1.jpg"),
    ("b/4.jpg", b"", tarfile.SYMTYPE, "3.jpg"),
    ("readme", b"", tarfile.SYMTYPE, "/elsewhere"),
    ("folder.jpg", b"", tarfile.DIRTYPE),
  )
  found, _ = tars.find(str(path))
  assert found == dict.fromkeys(
    ("a/1.jpg", "2.jpg", "b/3.jpg", "b/4.jpg"), (512, 5)
  )


@pytest.mark.parametrize(
  ("kind", "link", "message"),
  [
    (tarfile.SYMTYPE, "../x.jpg", "a link to '../x.jpg', which is no file in"),
    (tarfile.LNKTYPE, "x.jpg", "a link to 'x.jpg'"),
    (tarfile.SYMTYPE, "1.jpg", "a link to '1.jpg'"),
    (tarfile.SYMTYPE, "2.jpg", "a link that leads to itself"),
    (tarfile.FIFOTYPE, "", "neither a file nor a link"),
    (tarfile.GNUTYPE_SPARSE, "", "stored as a sparse file"),
  ],
)
def test_images_that_are_no_files_are_named(make, kind, link, message):
  path = make(
    ("1.jpg", b"", kind, link),
    ("2.jpg", b"", tarfile.SYMTYPE, "3.jpg"),
    ("3.jpg", b"", tarfile.SYMTYPE, "2.jpg"),
  )
  with pytest.raises(InputError, match=f"n01.tar: 1.jpg is {message}"):
    tars.find(str(path))


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_compressed_tars_are_named(tmp_path, mode):
  path = tmp_path / "n01.tar"
  with tarfile.open(path, mode) as tar:
    add(tar, "1.jpg", b"x")
  with pytest.raises(InputError, match="uncompressed tar .it is compressed"):
    tars.find(str(path))
