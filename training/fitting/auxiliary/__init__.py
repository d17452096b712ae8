"""Auxiliary targets in training: their values, their heads and their loss."""
