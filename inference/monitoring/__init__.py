"""Drift monitoring of images and scores: captured requests, windows, statistical tests and the report page."""
