"""Trains a network: data, training loop, optimiser, cross-validation, checkpoints, distributed processes.

`loop` trains one network over all epochs, `run` holds its epochs and checkpoints, `step` is one optimiser step.
`cross_validation` trains the folds, `head_only` the classifier alone, `lesion_loss` learns from annotated circles.
"""
