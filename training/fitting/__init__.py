"""Fitting a network: data, loop, optimiser, cross-validation, checkpoints, several processes."""
