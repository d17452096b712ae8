"""Parts of the evaluation job: data, candidates, calibration, selection, audit of fitted values, export."""
