"""The evaluation job in parts: data, candidates, calibration, selection, the audit of what was fitted."""
