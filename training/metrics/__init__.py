"""Metrics with their confidence intervals, and the figures at a decision threshold."""
