"""Benchmarks of speed, memory, compilation, input and start-up."""

import bit_jax  # noqa: F401  Before all others, so that Ctrl-C is quiet.
