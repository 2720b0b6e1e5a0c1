"""Reads and writes weight files: ours, the official release's and others'.

`weights.load(path)` and `weights.save_npz(path, Weights(...))` are public
contracts.
"""

from bit_jax.weights.files import (
  Weights,
  load,
  open_lazily,
  save_as,
  save_npz,
)
from bit_jax.weights.network import Network, network_of

__all__ = [
  "Network",
  "Weights",
  "load",
  "network_of",
  "open_lazily",
  "save_as",
  "save_npz",
]
