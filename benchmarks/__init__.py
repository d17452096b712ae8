"""Benchmarks. Each `bench_NAME` prints rows of results; `python -m benchmarks` runs all and writes `benchmarks.json`.

Here are the commands that measure a whole part: reader, segmentation, training, server, scale, load, fuzzing, the GPU
check, the mutants. `serving`, `data` and `studies` hold the rest by subject.
"""
