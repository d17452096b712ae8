"""The three container jobs: `python -m mammopipe.processing.jobs.prepare`, `.augment` and `.segment`."""
