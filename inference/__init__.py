"""One answer from one image: the predictor, the server that SageMaker starts, the client that applications import.

Importing this package loads nothing: `mammopipe.inference.client.client` must work where neither torch nor the server
is installed.
"""

if __name__ != "mammopipe.inference":
    raise ImportError("import mammopipe.inference: this folder of the checkout has that one name")
