"""The HTTP server of a SageMaker endpoint: `python -m mammopipe.inference.server`, console script `serve`."""
