"""Divides images into splits by patient, and verifies that nothing leaks from one split into another."""
