"""Responses: plain on `/invocations`, and wrapped like InvokeEndpoint's below `/endpoints/NAME`."""

import asyncio
import json
from enum import StrEnum
from http import HTTPStatus

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mammopipe.inference.contract.errors import RequestError
from mammopipe.inference.contract.media_types import error_body

RETRY_AFTER_SECONDS = 1
DRAIN_BYTES = 256 * 2**20
"""Most bytes of a refused body that are read and dropped, so that a client still sending can read the refusal."""
DRAIN_SECONDS = 10.0


class Caller(StrEnum):
    """Who reads the answer; this determines the format of errors."""

    CONTAINER = "container"
    """SageMaker or any HTTP client of the container: gets the error's own status and body."""
    RUNTIME = "runtime"
    """A `sagemaker-runtime` client: gets the container's error wrapped as InvokeEndpoint wraps it."""


def error_response(error: RequestError, caller: Caller) -> Response:
    """Return the response for an error in the caller's format.

    A runtime client gets the same as from AWS: `ModelError`, status 424, with the container's status and body inside
    (SageMaker Runtime API, InvokeEndpoint, Errors).
    """
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if error.status == HTTPStatus.SERVICE_UNAVAILABLE else {}
    body, status = error_body(error.code, error.message, error.detail), error.status
    if caller is Caller.RUNTIME:
        original = body.decode()
        headers["x-amzn-ErrorType"] = "ModelError"
        kind = "client" if status < 500 else "server"
        message = f'Received {kind} error ({status}) from the model with message "{original}"'
        body = json.dumps(
            {"Message": message, "OriginalStatusCode": status, "OriginalMessage": original, "LogStreamArn": ""}
        ).encode()
        status = HTTPStatus.FAILED_DEPENDENCY
    return Response(body, status, headers, media_type="application/json")


class LingeringResponse(Response):
    """A response sent before the request's body is read; the body is then read and dropped.

    Closing a connection with unread bytes resets it, and a client that is still sending would lose the answer.
    """

    def __init__(self, response: Response) -> None:
        super().__init__(response.body, response.status_code, {**response.headers, "connection": "close"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response, then read and drop the rest of the body, within limits, before ending the response."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        # `more_body` keeps uvicorn from closing the connection before the request's body is read.
        await send({"type": "http.response.body", "body": bytes(self.body), "more_body": True})
        # A client that waits for "100 Continue" has not sent its body, and will not after this answer.
        if all(name != b"expect" for name, _ in scope["headers"]):
            await _drop_body(receive)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _drop_body(receive: Receive) -> None:
    dropped, more = 0, True
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            while more and dropped < DRAIN_BYTES:
                message = await receive()
                dropped += len(message.get("body", b""))
                more = message["type"] == "http.request" and message.get("more_body", False)
    except TimeoutError:
        return
