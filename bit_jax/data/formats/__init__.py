"""Formats of image files: their headers, ends and decoders."""
