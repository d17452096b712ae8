"""A trained model as files: description, archive, predictions, reference. Imports no torch: serving needs it."""
