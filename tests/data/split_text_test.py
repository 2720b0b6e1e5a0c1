import dataclasses

import pytest
import tensorflow_datasets as tfds

from bit_jax.data import split_text
from bit_jax.errors import InputError

_SIZES = {"train": 103, "test": 7}


@pytest.mark.parametrize(
  "text",
  [
    "train",
    "train[:98%]",
    "train[98%:]",
    "train[12.5%:50%]",
    "train[10:20]",
    "train[0:]",
    "train[0:50%]",
    "train[-5:]",
    "train[:-5]",
    "train[-3%:]",
    "train[:0.5%]",
    "train[100:103]",
    "train+test",
    "test[2:] + train[:90%]+test[:1]",
  ],
)
def test_means_what_it_means_to_tfds(text):
  infos = {
    name: tfds.core.SplitInfo(name=name, shard_lengths=[size], num_bytes=0)
    for name, size in _SIZES.items()
  }
  instruction = tfds.core.ReadInstruction.from_spec(text)
  want = [
    (part.splitname, part.from_ or 0, part.to or _SIZES[part.splitname])
    for part in instruction.to_absolute(infos)
  ]
  got = [dataclasses.astuple(piece) for piece in split_text.parse(text, _SIZES)]
  assert got == want


def test_both_bounds_may_be_left_out():
  assert split_text.parse("test[:]", _SIZES) == [split_text.Piece("test", 0, 7)]


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("", "'' is not like train, train[:98%] or train[5:10]"),
    ("train[", "'train[' is not like"),
    ("train[5]", "'train[5]' is not like"),
    ("train[1:2:3]", "'train[1:2:3]' is not like"),
    ("train+", "'' is not like"),
    ("trian", "there is no 'trian'; the splits are train, test"),
    ("train+val", "there is no 'val'; the splits are train, test"),
    ("train[:9x]", "'9x' is neither a count nor a percentage"),
    ("train[:1.5]", "'1.5' is neither a count nor a percentage"),
    ("train[10:50%]", "mixes a count with a percentage"),
    ("train[:104]", "104 reaches beyond the 103 examples"),
    ("train[:101%]", "101% reaches beyond the 103 examples"),
    ("train[-104:]", "-104 reaches beyond the 103 examples"),
    ("train[5:5]", "selects none of the 103 examples"),
    ("train[50%:40%]", "selects none of the 103 examples"),
    ("test[:1%]", "selects none of the 7 examples"),
  ],
)
def test_bad_text(text, message):
  with pytest.raises(InputError) as error:
    split_text.parse(text, _SIZES)
  assert str(error.value).startswith(f"split {text!r}: ")
  assert message in str(error.value)
  assert "\n" not in str(error.value)


def _spans(text, sizes=_SIZES, **kwargs):
  pieces = split_text.parse(text, sizes, **kwargs)
  return [dataclasses.astuple(piece) for piece in pieces]


_DEFINED = split_text.parse_definitions(
  "val=train[90:], train=train[:90],few=train[:8]+val[:2],both=few[5:9],"
  "twice=train[10:],twice=twice[:3]",
  "key",
)


@pytest.mark.parametrize(
  ("text", "want"),
  [
    ("val", [("train", 90, 103)]),
    ("train", [("train", 0, 90)]),
    ("train[-5:]", [("train", 85, 90)]),
    ("val[1:3]+test", [("train", 91, 93), ("test", 0, 7)]),
    ("few", [("train", 0, 8), ("train", 90, 92)]),
    ("few[:50%]", [("train", 0, 5)]),
    ("few[8:]", [("train", 90, 92)]),
    ("both", [("train", 5, 8), ("train", 90, 91)]),
    ("twice", [("train", 10, 13)]),
  ],
)
def test_names_for_parts(text, want):
  assert _spans(text, defined=_DEFINED) == want


def test_definitions_may_stand_for_a_split_that_is_gone():
  defined = split_text.parse_definitions("val=test[:3],test=test[3:]", "key")
  assert _spans("val+test", defined=defined) == [
    ("test", 0, 3),
    ("test", 3, 7),
  ]


@pytest.mark.parametrize(
  ("definitions", "text", "message"),
  [
    ("a=train[:200]", "a", "split 'a=train[:200]': 200 reaches beyond the 103"),
    ("a=trian", "a[:2]", "split 'a=trian': there is no 'trian'; the splits"),
    (
      "a=b,b=train",
      "a",
      "split 'a=b': there is no 'b'; the splits are train, ",
    ),
    ("a=a", "a", "split 'a=a': there is no 'a'"),
    ("a=train", "b", "split 'b': there is no 'b'; the splits are train, test"),
  ],
)
def test_bad_definitions(definitions, text, message):
  defined = split_text.parse_definitions(definitions, "key")
  # Nothing is looked up before it is used.
  assert _spans("test", defined=defined)
  with pytest.raises(InputError) as error:
    split_text.parse(text, _SIZES, defined=defined)
  assert str(error.value).startswith(message)


def test_a_name_is_listed_once():
  defined = split_text.parse_definitions("train=train[:5],a=train", "key")
  with pytest.raises(InputError, match="the splits are train, test, a$"):
    split_text.parse("b", _SIZES, defined=defined)


@pytest.mark.parametrize("text", ["train[:90%]", "a=", "=train", "a=b=c"])
def test_malformed_definitions(text):
  with pytest.raises(InputError) as error:
    split_text.parse_definitions(f"ok=train, {text}", "config.data.splits")
  assert str(error.value) == (
    f"config.data.splits: {text!r} is not NAME=SPLIT, such as val=train[90%:]"
  )


@pytest.mark.parametrize(
  ("text", "size", "want"),
  [
    ("train[:90%]", 19, (0, 17)),
    ("train[90%:]", 19, (17, 19)),
    ("train[-10%:]", 19, (18, 19)),
    # 32.3 * 1000 / 100 is 322.99999999999994 in floats.
    ("train[:32.3%]", 1000, (0, 323)),
  ],
)
def test_percentages_may_round_down(text, size, want):
  got = _spans(text, {"train": size}, percent_floor=True)
  assert got == [("train", *want)]
