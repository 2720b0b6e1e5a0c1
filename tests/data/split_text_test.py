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
  got = [dataclasses.astuple(part) for part in split_text.parse(text, _SIZES)]
  assert got == want


def test_both_bounds_may_be_left_out():
  assert split_text.parse("test[:]", _SIZES) == [split_text.Range("test", 0, 7)]


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("", "'' is not like train, train[:98%], train[5:10] or"),
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
  ranges = split_text.parse(text, sizes, **kwargs)
  return [dataclasses.astuple(part) for part in ranges]


@pytest.mark.parametrize(
  ("text", "want"),
  [
    ("train[90:][:3]", [("train", 90, 93)]),
    ("train[90:][:]", [("train", 90, 103)]),
    # A percentage is of what stands before it, and rounds as it does alone.
    ("train[:50][50%:]", [("train", 25, 50)]),
    ("train[10:][10:][-3:-1]", [("train", 100, 102)]),
    (
      "train[:90%][:8] + train[90%:][:2]+test",
      [("train", 0, 8), ("train", 93, 95), ("test", 0, 7)],
    ),
  ],
)
def test_slices_of_slices(text, want):
  assert _spans(text) == want


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("train[90:][:14]", "14 reaches beyond the 13 examples"),
    ("train[90:][5:5]", "'train[90:][5:5]' selects none of the 13 examples"),
    ("train[5:5][:1]", "selects none of the 103 examples"),
    ("train[:9][1:50%]", "'[1:50%]' mixes a count with a percentage"),
    ("train[:9] [:1]", "'train[:9] [:1]' is not like train, "),
    ("train[:9][1]", "is not like"),
    ("[:9][:1]", "is not like"),
  ],
)
def test_bad_slices_of_slices(text, message):
  with pytest.raises(InputError, match="^split ") as error:
    split_text.parse(text, _SIZES)
  assert message in str(error.value)


@pytest.mark.parametrize(
  ("text", "size", "want"),
  [
    ("train[:90%]", 19, (0, 17)),
    ("train[90%:]", 19, (17, 19)),
    ("train[-10%:]", 19, (18, 19)),
    # 90 % of 13 and of 12: 11.7 and 10.8.
    ("train[:90%][:90%]", 15, (0, 11)),
    # 32.3 * 1000 / 100 is 322.99999999999994 in floats.
    ("train[:32.3%]", 1000, (0, 323)),
  ],
)
def test_percentages_may_round_down(text, size, want):
  got = _spans(text, {"train": size}, percent_floor=True)
  assert got == [("train", *want)]
