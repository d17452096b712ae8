"""Images and labels: pure functions, and the three container jobs that use them. Knows nothing of models."""
