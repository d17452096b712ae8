"""Async inference on this machine: SageMaker's async API over loopback, in front of one container.

    python -m mammopipe.pipelines.backends.async_runtime --name NAME --container http://127.0.0.1:8080
        --output s3://... --failure s3://...

`POST /endpoints/NAME/async-invocations` answers 202 and names the location of the future result. The object at
`X-Amzn-SageMaker-InputLocation` is then posted to the container's `/invocations`. The container's answer is written to
the output location; an error is written to the failure location, in the form that SageMaker uses.
Source: InvokeEndpointAsync (SageMaker Runtime API Reference), "Asynchronous inference" (SageMaker Developer Guide).
"""

import argparse
import http.client
import json
import os
import queue
import re
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from mammopipe.pipelines.data.s3 import s3_client
from mammopipe.processing.container.s3_uri import S3Uri
from mammopipe.processing.errors import ConfigError

INPUT_BYTES = 2**30
"""SageMaker's limit for an input object."""
INLINE_BYTES = 128_000
"""Limit for a request's own body, which is read and discarded: the input is the object on S3."""
QUEUED = 64
"""Maximum number of waiting requests; further ones are answered 503."""
INVOCATION_SECONDS, LONGEST_INVOCATION_SECONDS = 900.0, 3600.0
"""Default and maximum of `InvocationTimeoutSeconds`."""
TTL_SECONDS = 21_600.0
"""Default of `RequestTTLSeconds`, after which a waiting request expires."""
HEADER = "x-amzn-sagemaker-"


@dataclass(frozen=True)
class AsyncSettings:
    """Settings of one async endpoint."""

    name: str
    container: str
    """URL of its container."""
    output: str
    """S3 folder of the results."""
    failure: str
    """S3 folder of the failures."""
    concurrent: int = 1
    """Number of requests that the container handles concurrently."""

    def __post_init__(self) -> None:
        """Refuse locations that are not S3 folders, and a concurrency that would never call the container."""
        for uri in (self.output, self.failure):
            S3Uri.parse(uri)
        if self.concurrent < 1:
            raise ConfigError(f"concurrent={self.concurrent} must be at least 1")


@dataclass(frozen=True)
class Invocation:
    """An accepted request."""

    input: str
    output: str
    failure: str
    headers: Mapping[str, str]
    """The headers that the container receives."""
    seconds: float
    """Seconds to wait for the container's answer."""
    expires: float
    """`time.monotonic()` after which the request is no longer started."""


class FailedInvocation(Exception):
    """An accepted request failed; the message becomes the failure object on S3."""


class Refusal(Exception):
    """A request was not accepted; becomes an error response of the async API."""

    def __init__(self, status: HTTPStatus, kind: str, message: str) -> None:
        super().__init__(message)
        self.status, self.kind = status, kind


class AsyncRuntime:
    """The API and the threads that process accepted requests; a context manager that stops them."""

    def __init__(self, settings: AsyncSettings, storage: Any, *, port: int = 0) -> None:
        self.settings, self._storage = settings, storage
        self._waiting: queue.Queue[Invocation | None] = queue.Queue(QUEUED)
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        self._workers = [threading.Thread(target=self._work) for _ in range(settings.concurrent)]
        self._listener = threading.Thread(target=self._server.serve_forever)

    @property
    def url(self) -> str:
        """The URL of the API."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "AsyncRuntime":
        for thread in (self._listener, *self._workers):
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        for _worker in self._workers:
            self._waiting.put(None)
        for thread in (self._listener, *self._workers):
            thread.join()

    def take(self, name: str, headers: Mapping[str, str]) -> Invocation:
        """Accept a request and return it; header names are in lower case. Raises `Refusal`."""
        if name != self.settings.name:
            raise Refusal(HTTPStatus.BAD_REQUEST, "ValidationError", f"Endpoint {name} not found.")
        place = headers.get(f"{HEADER}inputlocation", "")
        if not place.startswith("s3://"):
            raise Refusal(HTTPStatus.BAD_REQUEST, "ValidationError", "InputLocation must be s3://BUCKET/KEY")
        result, now = uuid.uuid4(), time.monotonic()
        seconds = _seconds(headers, "invocationtimeoutseconds", INVOCATION_SECONDS)
        invocation = Invocation(
            place,
            f"{self.settings.output.rstrip('/')}/{result}.out",
            f"{self.settings.failure.rstrip('/')}/{result}-error.out",
            _container_headers(headers),
            min(seconds, LONGEST_INVOCATION_SECONDS),
            now + _seconds(headers, "requestttlseconds", TTL_SECONDS),
        )
        try:
            self._waiting.put_nowait(invocation)
        except queue.Full:
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "ServiceUnavailable", f"{QUEUED} requests wait") from None
        return invocation

    def healthy(self) -> bool:
        """Return whether the container answers /ping with 200."""
        try:
            return self._ask("GET", "/ping", None, {}, 5.0).status == HTTPStatus.OK
        except OSError:
            return False

    def _work(self) -> None:
        while (invocation := self._waiting.get()) is not None:
            started = time.monotonic()
            try:
                outcome = self._carry_out(invocation)
            except (BotoCoreError, ClientError) as error:
                # A failed write to S3 must not end this thread: it also processes the next requests.
                outcome = f"lost: {type(error).__name__}"
            print(
                json.dumps(
                    {
                        "event": "async",
                        "outcome": outcome,
                        "seconds": round(time.monotonic() - started, 3),
                        "inference_id": invocation.headers.get(f"{HEADER}inference-id", ""),
                    }
                ),
                flush=True,
            )

    def _carry_out(self, invocation: Invocation) -> str:
        try:
            answer = self._answer(invocation)
        except FailedInvocation as failure:
            self._put(invocation.failure, str(failure).encode(), "text/plain")
            return "failed"
        self._put(invocation.output, answer.body, answer.type)
        return "completed"

    def _answer(self, invocation: Invocation) -> "_Reply":
        if time.monotonic() > invocation.expires:
            raise FailedInvocation("The request expired in the queue before it was processed.")
        body = self._fetch(invocation.input)
        try:
            reply = self._ask("POST", "/invocations", body, invocation.headers, invocation.seconds)
        except TimeoutError:
            raise FailedInvocation(f"The container gave no answer within {invocation.seconds:g} seconds.") from None
        except (OSError, http.client.HTTPException) as error:
            raise FailedInvocation(f"The container broke the connection: {type(error).__name__}.") from None
        if reply.status != HTTPStatus.OK:
            kind = "client" if reply.status < HTTPStatus.INTERNAL_SERVER_ERROR else "server"
            text = reply.body.decode(errors="replace")
            raise FailedInvocation(f'Received {kind} error ({reply.status}) from primary with message "{text}"')
        if not reply.has_length:
            raise FailedInvocation("The response from container primary did not specify the required Content-Length.")
        return reply

    def _fetch(self, uri: str) -> bytes:
        place = S3Uri.parse(uri)
        try:
            found = self._storage.get_object(Bucket=place.bucket, Key=place.key)
            with closing(found["Body"]) as body:
                if found["ContentLength"] > INPUT_BYTES:
                    raise FailedInvocation(f"The input has {found['ContentLength']} bytes, the limit is {INPUT_BYTES}.")
                return bytes(body.read())
        except ClientError as error:
            raise FailedInvocation(f"The input cannot be read: {error.response['Error']['Code']}.") from None

    def _put(self, uri: str, body: bytes, content_type: str) -> None:
        place = S3Uri.parse(uri)
        self._storage.put_object(Bucket=place.bucket, Key=place.key, Body=body, ContentType=content_type)

    def _ask(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], seconds: float) -> "_Reply":
        connection = http.client.HTTPConnection(urlsplit(self.settings.container).netloc, timeout=seconds)
        try:
            connection.request(method, path, body, dict(headers))
            response = connection.getresponse()
            has_length = response.getheader("Content-Length") is not None
            return _Reply(response.status, response.getheader("Content-Type", ""), has_length, response.read())
        finally:
            connection.close()


@dataclass(frozen=True)
class _Reply:
    status: int
    type: str
    has_length: bool
    """Whether the container sent the length of its answer; SageMaker rejects answers without it."""
    body: bytes


def _seconds(headers: Mapping[str, str], name: str, default: float) -> float:
    try:
        return float(headers.get(f"{HEADER}{name}", default))
    except ValueError:
        raise Refusal(HTTPStatus.BAD_REQUEST, "ValidationError", f"{name} must be a number") from None


def _container_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers for the container: the input's type, the accepted type and the caller's attributes."""
    names = {
        "Content-Type": f"{HEADER}content-type",
        "Accept": f"{HEADER}accept",
        f"{HEADER}custom-attributes": f"{HEADER}custom-attributes",
        f"{HEADER}inference-id": f"{HEADER}inference-id",
    }
    return {name: headers[source] for name, source in names.items() if source in headers}


def _handler(runtime: AsyncRuntime) -> Callable[..., BaseHTTPRequestHandler]:
    """Return the class that handles the API's requests with `runtime`."""

    class Handler(BaseHTTPRequestHandler):
        """One connection to the async API; the bodies are on S3."""

        protocol_version = "HTTP/1.1"
        timeout = 60

        def do_GET(self) -> None:
            """Answer a health check."""
            healthy = self.path == "/ping" and runtime.healthy()
            self._send(HTTPStatus.OK if healthy else HTTPStatus.SERVICE_UNAVAILABLE, {}, {})

        def do_POST(self) -> None:
            """Accept a request for processing, and return the location of its future result."""
            try:
                self._drop_body()
                found = re.fullmatch(r"/endpoints/([^/]+)/(async-)?invocations", self.path)
                if found is None or not found[2]:
                    rule = "this endpoint is asynchronous: use InvokeEndpointAsync"
                    raise Refusal(HTTPStatus.BAD_REQUEST, "ValidationError", rule)
                taken = runtime.take(found[1], {name.lower(): value for name, value in self.headers.items()})
            except Refusal as refusal:
                self._send(refusal.status, {"Message": str(refusal)}, {"x-amzn-ErrorType": refusal.kind})
                return
            places = {f"{HEADER}outputlocation": taken.output, f"{HEADER}failurelocation": taken.failure}
            given = taken.headers.get(f"{HEADER}inference-id") or str(uuid.uuid4())
            self._send(HTTPStatus.ACCEPTED, {"InferenceId": given}, places)

        def _drop_body(self) -> None:
            """Read and discard the body, so that the connection can be reused."""
            size = int(self.headers.get("Content-Length") or 0)
            if size > INLINE_BYTES:
                self.close_connection = True
                raise Refusal(HTTPStatus.BAD_REQUEST, "ValidationError", f"a body has at most {INLINE_BYTES} bytes")
            self.rfile.read(size)

        def _send(self, status: HTTPStatus, values: Mapping[str, str], headers: Mapping[str, str]) -> None:
            """Respond with a JSON body and these headers."""
            body = json.dumps(values).encode()
            self.send_response(status)
            own = {"Content-Type": "application/json", "Content-Length": str(len(body))}
            for name, value in (own | dict(headers)).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            """Log nothing here: each request is logged once, when it is finished."""

    return Handler


def main(arguments: list[str] | None = None) -> None:
    """Serve until this process is ended."""
    parser = argparse.ArgumentParser(prog="python -m mammopipe.pipelines.backends.async_runtime", allow_abbrev=False)
    for name in ("name", "container", "output", "failure"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--concurrent", type=int, default=1)
    parser.add_argument("--port", type=int, default=0)
    options = vars(parser.parse_args(arguments))
    port, storage = options.pop("port"), s3_client(boto3.Session(region_name=os.environ.get("AWS_DEFAULT_REGION")))
    with AsyncRuntime(AsyncSettings(**options), storage, port=port) as runtime:
        print(json.dumps({"event": "listening", "url": runtime.url}), flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
