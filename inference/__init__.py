"""Inference: the predictor, the server that SageMaker starts, and the client that applications import.

Importing this package loads nothing, because `mammopipe.inference.client.client` must work without torch and without
the server's dependencies.
"""

if __name__ != "mammopipe.inference":
    raise ImportError("import mammopipe.inference: this folder of the checkout has that one name")
