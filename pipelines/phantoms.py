"""Synthetic films as a source of a run: what it is called, and how many films it has where nobody says."""

PHANTOMS = "phantoms"
"""The source that is made, not read."""
FILMS = 40
"""Enough for every class in every split."""
