"""Runs a study: an older name of `bit_jax study`."""

import sys

from bit_jax.tools.study.__main__ import main

if __name__ == "__main__":
  sys.exit(main())
