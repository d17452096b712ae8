"""Parts of the evaluation job: data, candidates, calibration, selection, audit of fitted values, export.

`calibration` fits temperatures and chooses thresholds, `selection` chooses the network, both on validation alone;
`config` holds the settings.
"""
