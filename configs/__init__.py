"""Recipes as ml_collections configs; `common.py` explains all keys."""
