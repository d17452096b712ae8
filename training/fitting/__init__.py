"""Trains a network: data, training loop, optimiser, cross-validation, checkpoints, distributed processes."""
