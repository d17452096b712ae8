"""Steps of the evaluation job: data, candidates, calibration, selection, audit of fitted values, export.

`calibration` fits temperatures and chooses thresholds, `selection` chooses the network, both only on validation;
`config` holds the settings.
"""
