"""Synthetic mammograms and data sets, for runs and tests without a patient."""

PHANTOMS = "phantoms"
"""The name of the synthetic images as the source of a run."""
FILMS = 40
"""How many images a run makes where nobody says: enough for every class in every split."""
