import dataclasses
import functools
import subprocess
import sys
from typing import Any

import flax.linen as nn
import pytest

from bit_jax import models
from bit_jax.errors import InputError
from bit_jax.objectives.naming import name_of

PROGRAM = """
import functools
import flax.linen as nn
from bit_jax import models
from bit_jax.objectives.classify import Classify
from bit_jax.objectives.naming import name_of
network = models.create("R14x0.25", num_classes=4)
act = functools.partial(nn.gelu, approximate=False)
print(name_of(Classify((network, act, nn.relu, {"a": 1.5}))))
"""


@dataclasses.dataclass(frozen=True)
class Mine:
  network: Any
  act: Any = nn.relu


def test_any_value_changes_the_name():
  def network(classes):
    return models.create("R14x0.25", num_classes=classes)

  names = [
    name_of(Mine(network(4))),
    name_of(Mine(network(5))),
    name_of(Mine(network(4), nn.gelu)),
    name_of(Mine(network(4), functools.partial(nn.gelu, approximate=False))),
    name_of(Mine(network(4), functools.partial(nn.gelu, approximate=True))),
  ]
  assert len(set(names)) == len(names)
  assert all(name.startswith("Mine, ") for name in names)
  assert name_of(Mine(network(4))) == names[0]


def test_the_name_is_the_same_in_every_process():
  runs = [
    subprocess.run(
      [sys.executable, "-c", PROGRAM],
      capture_output=True,
      text=True,
      check=True,
    ).stdout
    for _ in range(2)
  ]
  assert runs[0] == runs[1] != ""


@pytest.mark.parametrize("value", [lambda x: x, object()])
def test_what_has_no_name_is_refused(value):
  with pytest.raises(InputError, match=r"^Mine.act is .*another process: exp"):
    name_of(Mine(None, value))
