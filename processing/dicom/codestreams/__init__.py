"""Compressed pixel data before a decoder sees them: one frame, whole, and affordable."""
