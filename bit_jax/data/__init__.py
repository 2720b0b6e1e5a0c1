"""Example sources, image functions and the input pipeline."""
