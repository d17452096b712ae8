"""A trained model as files: description, archive, predictions, reference. Serving uses it, so it imports no torch.

`architecture` lists the networks (`OWN` and those of timm), `description` is `model.json`, `operating_points` the
thresholds, `calibration` and `prevalence` the probabilities, `exam_scores` the scores of breasts and patients.
"""
