"""Checks compressed pixel data before decoding: one frame, complete, and not too expensive to decode."""
