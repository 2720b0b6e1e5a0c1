import json

import pytest

from bit_jax.errors import InputError
from bit_jax.evaluate.label_map import match_classes


def match(own, outputs, label_map=""):
  return match_classes(own, outputs, str(label_map), "a set")


def test_a_whole_name_goes_before_a_synonym():
  outputs = ("grey fox, fox", "tench, Tinca tinca", "fox", "red wolf")
  own = ("Tinca tinca", "fox", "gnu")
  assert match(own, outputs) == ([[1], [2], []], False)
  # In the other direction, the first synonym that matches decides.
  assert match(("ape, fox", "elk, fox"), ("fox", "elk"))[0] == [[0], [1]]


def test_the_same_classes_in_the_same_order():
  # ImageNet has two classes called crane, which are ambiguous by name.
  own = ("crane", "ape", "crane")
  assert match(own, own) == ([[0], [1], [2]], False)
  assert match(list(own), own)[0] == [[0], [1], [2]]
  with pytest.raises(InputError, match="'crane' could be output 0 .* output 2"):
    match(own, ("crane", "gnu", "crane"))


def test_only_outputs_without_names_may_be_in_the_order_of_the_set():
  assert match(("a", "b"), ("0", "1")) == ([[0], [1]], True)
  for outputs in (("c", "d"), ("0", "1", "2"), ("1", "0")):
    with pytest.raises(InputError, match="a set: none of its classes"):
      match(("a", "b"), outputs)


def test_a_label_map_allows_several_outputs_or_none(tmp_path):
  label_map = tmp_path / "map.json"
  label_map.write_text(
    json.dumps({"dog": "pug; chow, chow chow", "cat": ["tabby"], "gnu": ""})
  )
  outputs = ("chow, chow chow", "fox", "tabby, tabby cat", "pug")
  got = match(("cat", "dog", "fox", "gnu"), outputs, label_map)
  assert got == ([[2], [3, 0], [], []], False)


def test_a_label_map_goes_before_names_and_order(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  label_map = tmp_path / "map.json"
  label_map.write_text('{"a": "b"}')
  assert match(("a", "b"), ("a", "b"), "~/map.json")[0] == [[1], []]
  label_map.write_text('{"x": "1"}')
  with pytest.raises(InputError, match="none of its classes"):
    match(("a", "b"), ("0", "1"), label_map)


def test_names_are_compared_in_one_spelling(tmp_path):
  nfc, nfd = "caf\u00e9", "cafe\u0301"
  assert match((nfc, "a"), ("a", nfd)) == ([[1], [0]], False)
  label_map = tmp_path / "map.json"
  label_map.write_text(f'\ufeff{{"{nfd}": "{nfc}"}}', encoding="utf-8")
  assert match((nfc, "a"), ("a", nfd), label_map)[0] == [[1], []]
  label_map.write_text('{"a": "a", "a": "b"}')
  with pytest.raises(InputError, match="label map .*'a' is there twice"):
    match(("a", "b"), ("a", "b"), label_map)


@pytest.fixture
def mappings(tmp_path):
  """ObjectNet's folder for 4 classes of ImageNet."""
  files = {
    "folder_to_objectnet_label.json": {
      "rake": "Rake",
      "chair": "Chair",
      "t_shirt": "T-shirt",
    },
    "objectnet_to_imagenet_1k.json": {
      "Chair": "barber chair; rocking chair, rocker",
      "T-shirt": "jersey, T-shirt, tee shirt",
    },
    # As in the original, lines are not in the order of the classes.
    "pytorch_to_imagenet_2012_id.json": {"0": 2, "1": 0, "2": 3, "3": 1},
  }
  for name, content in files.items():
    (tmp_path / name).write_text(json.dumps(content))
  (tmp_path / "imagenet_to_label_2012_v2").write_text(
    "crane\njersey, T-shirt, tee shirt\nbarber chair\nrocking chair, rocker\n"
  )
  return tmp_path


@pytest.mark.parametrize(
  ("outputs", "chair", "shirt"),
  [
    ("0 1 2 3", [0, 2], [3]),
    ("n00000001 n00000002 n00000003 n00000004", [0, 2], [3]),
    ("n00000003 n00000004 n00000001 n00000002", [2, 0], [1]),
    ("jersey rocker crane ape barber@chair", [4, 1], [0]),
  ],
)
def test_mappings_of_objectnet(mappings, outputs, chair, shirt):
  outputs = [name.replace("@", " ") for name in outputs.split()]
  got = match(("chair", "rake", "t_shirt"), outputs, mappings)
  assert got == ([chair, [], shirt], outputs[0] == "0")


def test_bad_mappings(mappings):
  for outputs in ("012", "01234"):
    with pytest.raises(InputError, match=f"4 classes.*{len(outputs)} outputs"):
      match(("chair",), outputs, mappings)
  names = mappings / "imagenet_to_label_2012_v2"
  lines = names.read_text()
  names.write_text(lines + "ape\n")
  with pytest.raises(InputError, match="for 5 classes.* 4 outputs"):
    match(("chair",), "0123", mappings)
  names.write_text(lines)
  numbers = mappings / "pytorch_to_imagenet_2012_id.json"
  numbers.write_text('{"0": 2, "1": 0, "2": 3, "3": 3}')
  with pytest.raises(InputError, match="for 4 classes in ImageNet's order"):
    match(("chair",), "0123", mappings)
  for name in ("imagenet_to_label_2012_v2", "folder_to_objectnet_label.json"):
    (mappings / name).unlink()
    with pytest.raises(InputError, match=f"{name} cannot be"):
      match(("chair",), "0123", mappings)


@pytest.mark.parametrize(
  ("outputs", "message"),
  [
    ("ab", r"\(cat, dog, empty\) is a class of.*\(a, b\).*--class_names"),
    ("01", r"none of its classes.*--class_names.*--label_map"),
    (
      ("cat", "pug, dog", "chow, dog"),
      r"'dog' could be output 1 \('pug, dog'\) or output 2",
    ),
    (map(str, range(1000)), r"\(0, 1, 10 and 997 more\)"),
  ],
)
def test_classes_that_cannot_be_matched(outputs, message):
  with pytest.raises(InputError, match=message):
    match(("cat", "dog", "empty"), tuple(outputs))


@pytest.mark.parametrize(
  ("text", "message"),
  [
    (None, "map.json cannot be read"),
    ("{", "map.json cannot be read"),
    ("[1]", "map.json: expected a JSON object"),
    ('{"dog": 3}', "map.json: 'dog': expected"),
    ('{"dog": [3]}', "map.json: 'dog': expected"),
    ('{"dog": "pug; ape"}', r"'dog' is said to be 'ape',.*\(chow, pug\)"),
    ('{"gnu": "pug"}', r"\(cat, dog\) is in .*map.json \(gnu\)"),
  ],
)
def test_bad_label_maps(tmp_path, text, message):
  label_map = tmp_path / "map.json"
  if text is not None:
    label_map.write_text(text)
  with pytest.raises(InputError, match=message) as e:
    match(("cat", "dog"), ("pug", "chow"), label_map)
  assert "\n" not in str(e.value)
