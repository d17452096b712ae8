"""Runs in experiment trackers: MLflow and TensorBoard."""
