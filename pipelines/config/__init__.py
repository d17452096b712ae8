"""The configuration of a run: one pydantic model per subject, read from TOML.

`pipeline` has `PipelineConfig`, which contains the models of `compute`, `endpoint`, `security`, `storage_and_data`,
`transform` and `tuning` (with `search_space`). `profiles` and `recipes` set many values at once, `toml` reads and
merges them, `reference` explains every key. `instances` knows the memory and disks of SageMaker's instance types.
"""
