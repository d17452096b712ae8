"""Datasets: label tables, image records and manifests. Each dataset is one adapter in one file."""
