"""Writes a run's metrics: JSON lines, TensorBoard and the terminal."""
