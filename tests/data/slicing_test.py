import dataclasses

import pytest
import tensorflow_datasets as tfds

from bit_jax.data import slicing
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
  got = [dataclasses.astuple(piece) for piece in slicing.parse(text, _SIZES)]
  assert got == want


def test_both_bounds_may_be_left_out():
  assert slicing.parse("test[:]", _SIZES) == [slicing.Piece("test", 0, 7)]


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
    slicing.parse(text, _SIZES)
  assert str(error.value).startswith(f"split {text!r}: ")
  assert message in str(error.value)
  assert "\n" not in str(error.value)
