"""The configuration of a run: one model a subject, read from TOML."""
