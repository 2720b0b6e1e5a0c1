"""Command-line tools, one task each: `bit_jax NAME`."""
