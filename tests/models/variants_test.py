import pytest

from bit_jax.errors import InputError
from bit_jax.models import variants


@pytest.mark.parametrize(
  ("name", "meant"),
  [
    ("resnet50", "R50x1"),
    ("ResNet-101", "R101x1"),
    ("r50x1", "R50x1"),
    ("R50X3", "R50x3"),
    ("R152", "R152x1"),
    ("50x1", "R50x1"),
    ("BiT-M-R101x3", "R101x3"),
    ("BiT-M-R101x3-ILSVRC2012", "R101x3"),
    ("resnetv2_101x3_bitm", "R101x3"),
    ("resnetv2_50x1_bit.goog_in21k", "R50x1"),
    ("google/bit-50", "R50x1"),
    ("r14x0.25", "R14x0.25"),
  ],
)
def test_names_of_others(name, meant):
  with pytest.raises(InputError, match=f"; did you mean {meant}\\?$"):
    variants.parse_variant(name)


@pytest.mark.parametrize("name", ["vit_b_16", "efficientnet", "R18x1", "", "x"])
def test_networks_that_are_none(name):
  with pytest.raises(InputError, match="expected R<depth>x<width>.*R14x0.5$"):
    variants.parse_variant(name)
