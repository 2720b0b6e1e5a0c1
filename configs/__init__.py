"""Recipes as ml_collections configs; `common.py` explains all keys.

They are the package `bit_jax.configs`, by which they import each other.
"""
