"""Figures of merit with their intervals, and the operating points."""
