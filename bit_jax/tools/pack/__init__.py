"""Packs image archives into TFDS sets."""
