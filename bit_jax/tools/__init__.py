"""Command-line tools, one task each: `python -m bit_jax.tools.NAME`."""
