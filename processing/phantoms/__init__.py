"""Synthetic mammograms and data sets, for runs and tests without a patient."""
