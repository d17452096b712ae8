"""Images and labels: functions and the three processing jobs that use them. This package does not use models."""

if __name__ != "mammopipe.processing":
    raise ImportError("import mammopipe.processing: this folder of the checkout has that one name")
