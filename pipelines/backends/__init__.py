"""Where a pipeline runs: local processes, Docker, AWS."""
