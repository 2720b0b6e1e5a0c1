"""Big Transfer (BiT, arXiv 1912.11370) in JAX and Flax."""
