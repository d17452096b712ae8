"""Benchmarks: each module prints rows of results. `python -m benchmarks` runs all and writes `benchmarks.json`."""
