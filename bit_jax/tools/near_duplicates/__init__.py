"""Finds images that two sets share."""
