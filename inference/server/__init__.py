"""The HTTP server of a SageMaker endpoint: `python -m mammopipe.inference.server`, console script `serve`.

`__main__` starts it, `app` checks and answers requests, `connections` limits connections, `lifecycle` starts and
stops.
"""
