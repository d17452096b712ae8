"""Metrics with confidence intervals, among them the metrics of a decision threshold."""
