import pytest

from bit_jax.data.sets import left_out


def _count(*names):
  counted = left_out.LeftOut("/photos")
  for name in names:
    counted.add_file(f"/photos/{name}")
  return counted


def test_files_are_counted_by_their_endings():
  names = [f"a/{i}.heic" for i in range(10)] + ["b/x.PDF", "b/y.pdf"]
  assert _count(*names).text() == (
    "12 files that are no images by name (.heic 10, .pdf 2), such as a/0.heic "
    "(HEIC: convert it to JPEG; a document: convert its pages to PNG)"
  )


def test_one_file_and_nothing():
  assert _count("readme.md").text() == (
    "1 file that is no image by name (.md 1), such as readme.md"
  )
  assert _count().text() == _count().holds() == ""


def test_many_endings_are_cut_short():
  text = _count(*(f"x.e{i}" for i in range(9))).text()
  assert "(.e0 1, .e1 1, .e2 1, .e3 1, .e4 1 and 4 other endings)" in text


@pytest.mark.parametrize(
  ("name", "kind"),
  [
    ("1.HEIF", "HEIC"),
    ("1.avif", "AVIF"),
    ("1.jxl", "JPEG XL"),
    ("1.jp2", "JPEG 2000"),
    ("1.CR3", "raw photo"),
    ("1.svg", "drawing"),
    ("1.psd", "image editor"),
    ("1.pgm", "rare format"),
    ("1.dcm", "medical"),
    ("1.nii.gz", "medical"),
    ("1.npy", "an array"),
    ("1.mov", "a film"),
    ("photos.zip", "unpack it"),
    ("photos.tar.gz", "unpack it"),
    ("1.jpg.crdownload", "not complete"),
    (".1.jpg.icloud", "iCloud"),
  ],
)
def test_what_cannot_be_read_is_named_by_what_it_is(name, kind):
  assert kind in left_out.what_is(f"a/{name}")
  assert kind in _count(f"a/{name}").holds()


def test_files_without_an_ending():
  text = _count("a/1", "a/2", "a/Fig. 3 of the report", "a.b/c").text()
  assert text.endswith("(no ending 4), such as a/1")


@pytest.mark.parametrize("name", ["1", "1.jpg_large", "1.jpg?w=300", "1.jpg!d"])
def test_images_under_other_names_are_known_by_content(tmp_path, name):
  def count(content):
    (tmp_path / name).write_bytes(content)
    counted = left_out.LeftOut(str(tmp_path))
    counted.add_file(str(tmp_path / name))
    return counted.text()

  assert count(b"\xff\xd8\xff\xe0").endswith(
    f"{name} (an image: end its name as its format does, such as in .jpg)"
  )
  assert count(b"MIT License").endswith(f"such as {name}")


def test_links_to_nothing(tmp_path):
  (tmp_path / "cat").symlink_to(tmp_path / "gone")
  counted = left_out.LeftOut(str(tmp_path))
  counted.add_file(str(tmp_path / "cat"))
  assert counted.text() == "1 link to nothing: cat"


def test_counts_are_added():
  one, other = _count("a/1.heic"), _count("b/1.heic", "2.txt")
  other.add_own("/photos/run")
  one.add_file("/photos/3.jpg", is_image=True)
  one.merge(other)
  assert one.text() == (
    "3 files that are no images by name (.heic 2, .txt 1), such as a/1.heic "
    "(HEIC: convert it to JPEG); 1 image in no class folder: 3.jpg; 1 folder "
    "that bit_jax wrote: run"
  )
