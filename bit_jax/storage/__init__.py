"""Checkpoints, small files, and the places they lie in."""
