"""Benchmarks of what comes before training: label tables, damaged files, shards, harmonisation, the leakage audit."""
