"""Packs folders or tars of images into a TFDS set."""
