"""Synthetic mammograms and datasets, for runs and tests without patient data."""

PHANTOMS = "phantoms"
"""The name that selects synthetic images as the source of a run."""
DEFAULT_PHANTOMS = 40
"""Default number of images of a run: enough for every class in every split."""
