"""A trained model as files: description, archive, predictions, reference. Serving uses it, so it imports no torch."""
