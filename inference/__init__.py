"""Inference: the predictor, the server that SageMaker starts, and the client that applications import.

A request goes through `server`, `workers`, `payload` (reads and checks the body), `prediction` and `engines`; `dicom`
makes DICOM results, `contract` has what client and server agree on, `client` is what applications import,
`monitoring` looks for drift, and `demo` is the page.

Importing this package loads nothing, because `mammopipe.inference.client.client` must work without torch and without
the server's dependencies.
"""

if __name__ != "mammopipe.inference":
    raise ImportError("this folder must be imported as mammopipe.inference")
