"""The three container jobs: `python -m processing.jobs.prepare`, `.augment` and `.segment`."""
