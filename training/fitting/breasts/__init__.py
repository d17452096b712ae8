"""Training on breasts, each with all its views."""
