"""The cost and time of a run, before it starts and after it ended."""
