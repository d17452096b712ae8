"""Where a pipeline runs: local processes, Docker, AWS.

`process` interprets the compiled definition on this machine, with `jobs` (containers as processes), `control_plane`
(package, model, endpoint) and `local_endpoint`; `docker` uses the SDK's local mode. Runs on AWS are in
`mammopipe.pipelines.runs`.
"""
