"""Measurements: each module prints rows of figures. `python -m benchmarks` runs all and writes `benchmarks.json`."""
