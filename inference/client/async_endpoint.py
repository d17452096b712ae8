"""Async inference as the caller sees it: the body goes to S3, SageMaker hands it to the container, S3 has the result.

Source: "Asynchronous inference" (SageMaker Developer Guide) and InvokeEndpointAsync (SageMaker Runtime API Reference).
"""

import logging
import random
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from mammopipe.inference.client.body import Body
from mammopipe.inference.client.errors import (
    EndpointUnreachableError,
    InferenceError,
    RequestRefusedError,
    calling,
    from_failure,
)
from mammopipe.inference.client.retry import Deadline, Retry
from mammopipe.processing.errors import ConfigError

ASYNC_BYTES = 2**30
"""Body of an InvokeEndpointAsync call on AWS (SageMaker endpoints and quotas)."""
FIRST_POLL_SECONDS, LONGEST_POLL_SECONDS = 0.1, 5.0
LONGEST_INVOCATION_SECONDS = 3600
"""What InvocationTimeoutSeconds may be at most."""
LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Uploads:
    """Where bodies that are too large for a real-time call lie on S3 until they are answered."""

    prefix: str
    """`s3://BUCKET/PREFIX`, which the caller may write and the endpoint's role may read."""
    remove: bool = True
    """Whether the body and the result are removed from S3 when the call ends, however it ends."""
    kms_key: str = ""
    """Key that encrypts the body; empty: the bucket's own encryption."""

    def __post_init__(self) -> None:
        """Refuse a prefix without a bucket."""
        if re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]+(/.+)?", self.prefix) is None:
            raise ConfigError(f"Uploads.prefix={self.prefix!r} must be s3://BUCKET/PREFIX")

    def uri(self, name: str) -> str:
        """Return where the body of this name lies."""
        return f"{self.prefix.rstrip('/')}/{name}"


@dataclass(frozen=True)
class AsyncEndpoint:
    """An endpoint with async inference and the S3 that it works on."""

    name: str
    runtime: Any
    """A boto3 `sagemaker-runtime` client."""
    storage: Any
    """A boto3 S3 client."""
    uploads: Uploads

    def invoke(self, body: Body | str, request: Mapping[str, str], retry: Retry, deadline: Deadline) -> bytes:
        """Return what the container answers to a body, or to the object that lies at an `s3://` URI already.

        `request` holds ContentType, Accept, InferenceId and, where there are any, CustomAttributes.
        Raises the subclasses of `InferenceError`, the container's own error among them.
        """
        if not isinstance(body, Body):
            return retry.run(lambda: self._once(body, request, deadline), deadline)
        if len(body.data) > ASYNC_BYTES:
            raise RequestRefusedError("too_large", f"{len(body.data)} bytes; an async call takes {ASYNC_BYTES}", 413)
        with self._uploaded(body, request["InferenceId"]) as uri:
            return retry.run(lambda: self._once(uri, request, deadline), deadline)

    @contextmanager
    def _uploaded(self, body: Body, name: str) -> Iterator[str]:
        uri = self.uploads.uri(name)
        place = _place(uri)
        key = self.uploads.kms_key
        safety = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": key} if key else {}
        calling(lambda: self.storage.put_object(**place, Body=body.data, ContentType=body.content_type, **safety))
        try:
            yield uri
        finally:
            self._forget(uri)

    def _once(self, uri: str, request: Mapping[str, str], deadline: Deadline) -> bytes:
        """Invoke the endpoint, wait for the output or the failure object, and read it."""
        seconds = max(1, min(LONGEST_INVOCATION_SECONDS, int(deadline.left)))
        reply = calling(
            lambda: self.runtime.invoke_endpoint_async(
                EndpointName=self.name, InputLocation=uri, InvocationTimeoutSeconds=seconds, **request
            )
        )
        output, failure = reply["OutputLocation"], reply.get("FailureLocation", "")
        pause = FIRST_POLL_SECONDS
        while True:
            if (answer := self._take(output)) is not None:
                return answer
            if failure and (said := self._take(failure)) is not None:
                raise from_failure(said.decode(errors="replace"))
            deadline.sleep(random.uniform(pause / 2, pause))
            pause = min(LONGEST_POLL_SECONDS, pause * 1.5)

    def _take(self, uri: str) -> bytes | None:
        """Return an object once it is there: S3 shows it whole or not at all, and botocore checks its length."""
        data = calling(lambda: self._read(uri))
        if data is not None:
            self._forget(uri)
        return data

    def _read(self, uri: str) -> bytes | None:
        try:
            return bytes(self.storage.get_object(**_place(uri))["Body"].read())
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code in ("NoSuchKey", "404"):
                return None
            if code in ("AccessDenied", "403"):
                rule = "reading a result needs s3:GetObject and s3:ListBucket, without which S3 hides what is missing"
                raise EndpointUnreachableError("AccessDenied", f"{uri}: {rule}", 403) from None
            raise

    def _forget(self, uri: str) -> None:
        """Remove an object where that was asked for; that it stays costs no answer, so it is told to the log alone."""
        if not self.uploads.remove:
            return
        try:
            calling(lambda: self.storage.delete_object(**_place(uri)))
        except InferenceError as error:
            LOG.warning("%s stays on S3: %s", uri, error)


def _place(uri: str) -> dict[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return {"Bucket": bucket, "Key": key}
