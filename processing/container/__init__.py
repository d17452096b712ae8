"""The environment of a job inside its container: paths, entry point, memory, network, S3 locations."""
