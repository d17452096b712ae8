"""Measurements: each module prints rows of figures; `python -m benchmarks` runs them all and writes `benchmarks.json`."""
