"""The three processing jobs: `python -m mammopipe.processing.jobs.prepare`, `.augment` and `.segment`."""
