"""The configuration of a run: one model per subject, read from TOML.

`pipeline` has `PipelineConfig`, which holds the others; `reference` explains every key; `recipes` are the shipped
files.
"""
