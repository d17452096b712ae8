"""The configuration of a run: one model per subject, read from TOML."""
