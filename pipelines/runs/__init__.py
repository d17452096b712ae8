"""Runs: start, follow, results, comparison, tracking, roll-out."""
