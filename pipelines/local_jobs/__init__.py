"""Jobs of the process backend that consist of several processes.

`tuning` runs a search over hyperparameters as training jobs, `transform` a batch transform with a local server.
"""
