"""Metrics out of a run: JSON lines, TensorBoard and the terminal."""
