"""Async inference from the caller's side: uploads the body to S3, invokes the endpoint and reads the result from S3.

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
from mammopipe.inference.client.transport import object_place, stored_object
from mammopipe.processing.errors import ConfigError

ASYNC_BYTES = 2**30
"""Largest body of an InvokeEndpointAsync call on AWS, in bytes (SageMaker endpoints and quotas)."""
FIRST_POLL_SECONDS, LONGEST_POLL_SECONDS = 0.1, 5.0
LONGEST_INVOCATION_SECONDS = 3600
"""Maximum of InvocationTimeoutSeconds (SageMaker Runtime API, InvokeEndpointAsync)."""
LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Uploads:
    """The place on S3 for bodies that are too large for a real-time call."""

    prefix: str
    """`s3://BUCKET/PREFIX`. The caller needs write access, the endpoint's role read access."""
    remove: bool = True
    """Whether the body and the result are removed from S3 when the call ends, whether it succeeds or fails."""
    kms_key: str = ""
    """KMS key that encrypts the body; empty uses the bucket's default encryption."""

    def __post_init__(self) -> None:
        """Refuse a prefix without a bucket, and what the headers of a request cannot carry."""
        if re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]+(/[\x20-\x7e]+)?", self.prefix) is None:
            raise ConfigError(f"Uploads.prefix={self.prefix!r} must be s3://BUCKET/PREFIX in printable ASCII")
        if re.fullmatch(r"[\x21-\x7e]*", self.kms_key) is None:
            raise ConfigError(f"Uploads.kms_key={self.kms_key!r} must be a key's id, alias or ARN in visible ASCII")

    def uri(self, name: str) -> str:
        """Return the `s3://` URI of the body with this name."""
        return f"{self.prefix.rstrip('/')}/{name}"


@dataclass(frozen=True)
class AsyncEndpoint:
    """An endpoint with async inference, and the S3 client for its bodies and results."""

    name: str
    runtime: Any
    """A boto3 `sagemaker-runtime` client."""
    storage: Any
    """A boto3 S3 client."""
    uploads: Uploads

    def invoke(self, body: Body | str, request: Mapping[str, str], retry: Retry, deadline: Deadline) -> bytes:
        """Return the container's answer.

        Args:
            body: The body to upload, or the `s3://` URI of an object that exists already.
            request: ContentType, Accept, InferenceId and, if there are any, CustomAttributes.
            retry: How failed calls are retried.
            deadline: When the whole call must end.

        Raises:
            InferenceError: One of its subclasses, which includes the container's own error.
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
        place = object_place(uri)
        key = self.uploads.kms_key
        kms = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": key} if key else {}
        calling(lambda: self.storage.put_object(**place, Body=body.data, ContentType=body.content_type, **kms))
        try:
            yield uri
        finally:
            self._remove(uri)

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
            if failure and (text := self._take(failure)) is not None:
                raise from_failure(text.decode(errors="replace"))
            # Random waits keep many clients from polling S3 at the same moments.
            deadline.sleep(random.uniform(pause / 2, pause))
            pause = min(LONGEST_POLL_SECONDS, pause * 1.5)

    def _take(self, uri: str) -> bytes | None:
        """Return an object and remove it; `None` if it does not exist yet. S3 never shows a partly written object."""
        data = calling(lambda: self._read(uri))
        if data is not None:
            self._remove(uri)
        return data

    def _read(self, uri: str) -> bytes | None:
        try:
            return stored_object(self.storage, uri)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code in ("NoSuchKey", "404"):
                return None
            if code in ("AccessDenied", "403"):
                rule = "reading a result needs s3:GetObject and s3:ListBucket, without which S3 denies missing objects"
                raise EndpointUnreachableError("AccessDenied", f"{uri}: {rule}", 403) from None
            raise

    def _remove(self, uri: str) -> None:
        """Remove an object if `uploads.remove` is set. A failure is only logged: it does not affect the answer."""
        if not self.uploads.remove:
            return
        try:
            calling(lambda: self.storage.delete_object(**object_place(uri)))
        except InferenceError as error:
            LOG.warning("%s was not removed from S3: %s", uri, error)
