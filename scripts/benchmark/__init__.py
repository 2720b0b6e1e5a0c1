"""Benchmarks of speed, memory, compilation, input and start-up."""
