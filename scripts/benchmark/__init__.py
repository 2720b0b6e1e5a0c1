"""Measures speed, memory and input."""
