import unicodedata

import pytest

from bit_jax.errors import InputError
from tests.tools.pack.sets import (
  load,
  records,
  run,
  write,
)


def test_several_labels_an_image(tmp_path, out, capsys):
  src = write(tmp_path / "src", "a.jpg", "x/b.jpg", "x/y/c.png", "d.jpg")
  write(src, "unlisted.jpg")
  labels = tmp_path / "labels.csv"
  labels.write_text(
    '\ufeffa.jpg,sun; sea;sun\n./x/b.jpg,sea\n\nx/y/c.png,\nd.jpg,"a, b"\n',
    encoding="utf-8",
  )
  run(src, out, labels=str(labels))
  train = load(out)
  assert train.multi_label
  assert train.class_names == ("a, b", "sea", "sun")
  assert sorted((name, label) for name, _, label in records(out)) == [
    ("a.jpg", [1, 2]),
    ("d.jpg", [0]),
    ("x/b.jpg", [1]),
    ("x/y/c.png", []),
  ]
  got = [train.examples[i] for i in range(4)]
  assert sorted((e["label"], e["image"]) for e in got) == sorted(
    (label, image) for _, image, label in records(out)
  )
  text = capsys.readouterr().err
  assert "left out: 1 images that " in text
  assert " does not list, such as unlisted.jpg" in text

  names = tmp_path / "names.txt"
  names.write_text("sea\nsun\nmoon\na, b\n")
  run(src, out / "2", labels=str(labels), class_list=str(names))
  assert load(out / "2").class_names == ("sea", "sun", "moon", "a, b")


def test_several_labels_in_splits(tmp_path, out):
  src = write(tmp_path / "src", "train/a.jpg", "test/x/b.jpg")
  labels = tmp_path / "labels.csv"
  labels.write_text("train/a.jpg,sun\ntest/x/b.jpg,sea\n")
  run(src, out, labels=str(labels))
  assert [r[::2] for r in records(out, "test")] == [("test/x/b.jpg", [0])]
  assert [r[::2] for r in records(out)] == [("train/a.jpg", [1])]


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ('a.jpg,"sun\nx/b.jpg,sea\n', "line 2: unexpected end of data; is a quote"),
    ('a.jpg,"sun\nx/b.jpg,"sea"\n', "line 2: .*is a quote not closed"),
    ('"a\n.jpg",sun\n', "line 2: expected IMAGE,CLASS;CLASS"),
    ("a.jpg,sun\nx/b.jpg\n", "line 2: expected IMAGE,CLASS;CLASS"),
    ("a.jpg,sun,sea\n", "line 1: expected IMAGE,CLASS;CLASS"),
    ("a.jpg,sun\nx/b", "line 2: expected IMAGE,CLASS;CLASS"),
  ],
)
def test_a_damaged_list_of_labels(tmp_path, out, text, message):
  src = write(tmp_path / "src", "a.jpg", "x/b.jpg")
  labels = tmp_path / "labels.csv"
  labels.write_text(text)
  with pytest.raises(InputError, match=f"labels.csv {message}"):
    run(src, out, labels=str(labels))


def test_labels_of_any_editor_and_names_of_any_system(tmp_path, out):
  name = unicodedata.normalize("NFD", "caf\u00e9/1.jpg")
  src = write(tmp_path / "src", name, "b.jpg")
  labels = tmp_path / "labels.csv"
  text = "caf\u00e9/1.jpg,cre\u0300me\r\nb.jpg,cr\u00e8me;tea\r\n"
  labels.write_bytes(text.encode("utf-16"))
  run(src, out, labels=str(labels))
  assert load(out).class_names == ("cr\u00e8me", "tea")
  found = {r[0]: r[2] for r in records(out)}
  assert found == {name: [0], "b.jpg": [0, 1]}
