"""Benchmarks: `make bench`. Nothing here is imported by the package or timed by a test."""
