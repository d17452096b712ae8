"""Images and labels: pure functions, and the three container jobs that use them. Knows nothing of models."""

if __name__ != "mammopipe.processing":
    raise ImportError("import mammopipe.processing: this folder of the checkout has that one name")
