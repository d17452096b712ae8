"""A batch transform as a local job: the serving container answers every object below an S3 prefix.

Source: "Batch transform for inference with Amazon SageMaker AI" and "Use your own inference code with batch transform"
(SageMaker Developer Guide): there is one request and one output object for each input object; if an object cannot be
processed, the job continues with the others and then fails.
"""

import shutil
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mammopipe.pipelines.backends.jobs import JobContext, StepFailed, fetch_model
from mammopipe.pipelines.backends.local_endpoint import serve
from mammopipe.pipelines.data.answers import SUFFIX
from mammopipe.pipelines.data.s3 import S3Object
from mammopipe.processing.container.s3_uri import S3Uri

BATCH = {"SAGEMAKER_BATCH": "true", "SAGEMAKER_BATCH_STRATEGY": "SINGLE_RECORD"}
"""The variables with which SageMaker starts a container for a batch transform."""
RETRIED = (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS)
"""The answers after which a request is repeated: the server is busy."""
PAUSE_SECONDS = 0.5
"""Pause before the first repetition; it doubles with each."""
MEBIBYTE = 2**20


@dataclass(frozen=True)
class _Job:
    """The job of a request."""

    request: Mapping[str, Any]
    context: JobContext
    url: str
    scratch: Path

    @property
    def source(self) -> S3Uri:
        """The prefix of the inputs."""
        return S3Uri.parse(self.request["TransformInput"]["DataSource"]["S3DataSource"]["S3Uri"])


def run_transform(
    name: str, request: Mapping[str, Any], container: Mapping[str, Any], context: JobContext, *, threads: int
) -> None:
    """Answer every object of the request's prefix.

    Args:
        name: Name of the step; it also names the log.
        request: The `CreateTransformJob` request.
        container: The model's container: artefact and variables.
        context: Where jobs run.
        threads: Number of threads of the server.

    Raises:
        StepFailed: There is no object, the server did not start, or an object got no answer.
    """
    source = request["TransformInput"]["DataSource"]["S3DataSource"]["S3Uri"]
    objects = [item for item in context.storage.list(source) if not item.key.endswith("/")]
    if not objects:
        raise StepFailed(f"there is no object under {source}")
    scratch = context.work / name
    folder = fetch_model(context.storage, container["ModelDataUrl"], scratch)
    # The job's variables override the model's.
    environment = {
        **(container.get("Environment") or {}),
        **request.get("Environment", {}),
        **BATCH,
        "SAGEMAKER_MAX_PAYLOAD_IN_MB": str(request["MaxPayloadInMB"]),
    }
    log = context.logs / f"{name}.log"
    server = serve(name, folder, log, context.processes, threads=threads, environment=environment)
    try:
        job = _Job(request, context, server.url, scratch)
        with ThreadPoolExecutor(request.get("MaxConcurrentTransforms", 1)) as pool:
            failures = [reason for reason in pool.map(lambda item: _answer(job, item), objects) if reason]
    finally:
        server.stop()
        shutil.rmtree(scratch, ignore_errors=True)
    if failures:
        raise StepFailed(f"{len(failures)} of {len(objects)} objects got no answer; the first: {failures[0]}")


def _answer(job: _Job, item: S3Object) -> str:
    """Send one object to the server and store its answer; returns why there is none, or an empty string."""
    name = job.source.name_below(item.key)
    path = job.scratch / "input" / name
    job.context.storage.fetch(job.source, item, path)
    if path.stat().st_size > job.request["MaxPayloadInMB"] * MEBIBYTE:
        return f"{name}: larger than MaxPayloadInMB={job.request['MaxPayloadInMB']}"
    limits = job.request.get("ModelClientConfig", {})
    for attempt in range(1 + limits.get("InvocationsMaxRetries", 3)):
        try:
            status, body = _post(job, path, limits.get("InvocationsTimeoutInSeconds", 600))
        except (OSError, HTTPException) as error:
            return f"{name}: {type(error).__name__} {error}"
        if status not in RETRIED:
            break
        time.sleep(PAUSE_SECONDS * 2**attempt)
    path.unlink()
    if status != HTTPStatus.OK:
        return f"{name}: the server answered {status}: {body[:200].decode(errors='replace')}"
    answer = job.scratch / "output" / f"{name}{SUFFIX}"
    answer.parent.mkdir(parents=True, exist_ok=True)
    answer.write_bytes(body + b"\n")
    job.context.storage.put(answer, f"{job.request['TransformOutput']['S3OutputPath'].rstrip('/')}/{name}{SUFFIX}")
    return ""


def _post(job: _Job, path: Path, seconds: float) -> tuple[int, bytes]:
    """Return status and body of the server's answer to a file."""
    address = urlsplit(job.url)
    connection = HTTPConnection(str(address.hostname), address.port, timeout=seconds)
    headers = {
        "Content-Type": job.request["TransformInput"]["ContentType"],
        "Accept": job.request["TransformOutput"]["Accept"],
    }
    try:
        connection.request("POST", "/invocations", path.read_bytes(), headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
