"""Where a pipeline runs: local processes, Docker, AWS.

`process` interprets the compiled definition: `expressions` resolves references, `supported` refuses what cannot run,
`jobs` runs containers as local processes (`processes`, `supervise`), `control_plane` calls the emulated SageMaker
API, `local_endpoint` and `async_runtime` serve. `docker` uses the SDK's local mode. `execution` and
`step_status` are common to both; `sessions` connects to S3 and AWS. Runs on AWS are in `mammopipe.pipelines.runs`.
"""
