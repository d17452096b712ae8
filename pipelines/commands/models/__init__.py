"""Commands that use a trained model: predictions, evaluation, endpoints, drift."""
