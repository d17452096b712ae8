"""Jobs of the process backend that are more than one container: a search over hyperparameters, a batch transform."""
