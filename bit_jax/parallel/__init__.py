"""Devices and hosts: what lives where, and who waits for whom."""
