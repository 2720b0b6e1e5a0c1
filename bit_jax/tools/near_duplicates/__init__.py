"""Finds near-duplicate images in two sets."""
