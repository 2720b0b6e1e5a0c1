"""Distributes arrays over devices and coordinates several hosts."""
