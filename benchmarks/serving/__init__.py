"""Benchmarks of inference: engine, heatmap, drift, other servers; the harness and the requests of the server's ones."""
