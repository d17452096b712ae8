"""Divides images into splits by patient, and verifies that nothing leaks from one split into another.

`assignment` divides; `leakage_audit` compares the splits, with `near_duplicates`, `duplicate_index`,
`pixel_confirmation` and `local_agreement` for images of the same original; `read_register` counts how often a test
split was read.
"""
