"""Drift of pixels and scores: captured requests, their windows, the figures, the page."""
