"""Sends the bodies of requests to an endpoint, real-time or async, and reads its answers within one deadline."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from botocore.config import Config

from mammopipe.inference.client.async_endpoint import AsyncEndpoint, Uploads
from mammopipe.inference.client.body import Body, ExamImage, Source, exam_body, image_body
from mammopipe.inference.client.errors import RequestRefusedError, calling
from mammopipe.inference.client.retry import Deadline, Retry
from mammopipe.inference.client.transport import object_place, read_answer, runtime, service, stored_object

READ_SECONDS = 70.0
"""Read timeout of a call. It exceeds the 60 seconds within which InvokeEndpoint itself answers or fails."""
HEAD_BYTES = 132
"""Bytes at the start of a file that suffice to tell its type."""
Members = Mapping[str, str]
"""Members of an InvokeEndpoint request other than the endpoint's name and the body."""


class Delivery(StrEnum):
    """How a request reaches the container."""

    BY_SIZE = "by-size"
    """Real-time if the body is small enough, async otherwise."""
    REALTIME = "realtime"
    ASYNC = "async"


@dataclass(frozen=True)
class EndpointAddress:
    """One endpoint: its name, and the URL of its server (`None`: AWS)."""

    name: str
    url: str | None


@dataclass(frozen=True)
class Sender:
    """Sends requests to one endpoint; the fields are the arguments of `MammographyClient`, checked."""

    target: EndpointAddress
    asynchronous: EndpointAddress
    region: str | None
    retry: Retry
    deadline_seconds: float
    delivery: Delivery
    uploads: Uploads | None
    largest_body: int
    """Largest body of a real-time call, in bytes."""
    container_reads_s3: bool
    given_storage: Any

    def image(self, source: Source, request: Members) -> bytes:
        """Return the container's answer to one image; raises `InferenceError`."""
        return self._within_deadline(partial(self._image, source, request))

    def exam(self, images: Sequence[ExamImage], request: Members) -> bytes:
        """Return the container's answer to several images; raises `InferenceError`."""
        return self._within_deadline(partial(self._exam, images, request))

    def _within_deadline(self, work: Callable[[Deadline], bytes]) -> bytes:
        """Return the result of `work`; the deadline covers loading, sending, waiting and reading."""
        deadline = Deadline(self.deadline_seconds)
        return deadline.bound(partial(work, deadline))

    def _image(self, source: Source, request: Members, deadline: Deadline) -> bytes:
        large = self._large_object(source)
        if large is not None:
            head = calling(lambda: stored_object(self._storage, large, Range=f"bytes=0-{HEAD_BYTES - 1}"))
            content_type = image_body(head).content_type
            return self._send_async(large, {**request, "ContentType": content_type}, deadline)
        return self._send(image_body(self._load(source)), request, deadline)

    def _exam(self, images: Sequence[ExamImage], request: Members, deadline: Deadline) -> bytes:
        return self._send(exam_body(images, self._load, by_reference=self.container_reads_s3), request, deadline)

    def _send(self, body: Body, request: Members, deadline: Deadline) -> bytes:
        """Return the container's answer to a body; `delivery` or the body's size selects real-time or async."""
        request = {**request, "ContentType": body.content_type}
        by_size = self.delivery is Delivery.BY_SIZE and self._is_large(len(body.data))
        if self.delivery is Delivery.ASYNC or by_size:
            return self._send_async(body, request, deadline)
        # The limit is AWS's. A server of one's own has its own, and answers 413 itself.
        if self.target.url is None and len(body.data) > self.largest_body:
            rule = f"{len(body.data)} bytes; a real-time call takes {self.largest_body}, an async call (uploads) more"
            raise RequestRefusedError("too_large", rule, 413)
        return self.retry.run(partial(self._call, body.data, request, deadline), deadline)

    def _call(self, body: bytes, request: Members, deadline: Deadline) -> bytes:
        """Make one real-time call and return the container's answer."""
        with self._runtime_within(deadline.left) as client:
            # The answer is read inside `calling`: a connection that breaks meanwhile is an error that `Retry` retries.
            def invoke() -> bytes:
                answer = client.invoke_endpoint(EndpointName=self.target.name, Body=body, **request)
                return read_answer(answer["Body"], deadline)

            return calling(invoke)

    def _send_async(self, body: Body | str, request: Members, deadline: Deadline) -> bytes:
        if self.uploads is None:
            raise RequestRefusedError("too_large", "an async call needs uploads, the place on S3 for the bodies", 413)
        endpoint = AsyncEndpoint(self.asynchronous.name, self._async_runtime, self._storage, self.uploads)
        return endpoint.invoke(body, request, self.retry, deadline)

    def _is_large(self, size: int) -> bool:
        """Return whether a body is too large for a real-time call and `uploads` allows an async one."""
        return self.uploads is not None and size > self.largest_body

    def _large_object(self, source: Source) -> str | None:
        """Return the URI of an S3 object that the async endpoint can read directly, or `None`.

        The object must be in the bucket of the uploads, which the endpoint's role can read. The client itself fetches
        objects of other buckets, with the caller's permissions.
        """
        uploads = self.uploads
        if uploads is None or not isinstance(source, str) or self.delivery is Delivery.REALTIME:
            return None
        if not source.startswith(f"s3://{object_place(uploads.prefix)['Bucket']}/"):
            return None
        size = calling(lambda: self._storage.head_object(**object_place(source))["ContentLength"])
        return source if self.delivery is Delivery.ASYNC or self._is_large(size) else None

    def _load(self, source: Source) -> bytes:
        if isinstance(source, bytes):
            return source
        if isinstance(source, str) and source.startswith("s3://"):
            return calling(lambda: stored_object(self._storage, source))
        try:
            return Path(source).read_bytes()
        except OSError as error:
            raise RequestRefusedError("unreadable_file", f"{source}: {error.strerror}") from None
        except ValueError as error:  # a NUL byte in the name
            raise RequestRefusedError("unreadable_file", f"{str(source)!r}: {error}") from None

    @cached_property
    def _runtime(self) -> Any:
        return runtime(self.target.url, self.region, READ_SECONDS)

    @cached_property
    def _async_runtime(self) -> Any:
        return runtime(self.asynchronous.url, self.region, READ_SECONDS)

    @contextmanager
    def _runtime_within(self, seconds: float) -> Iterator[Any]:
        """Yield a boto3 client whose read timeout is at most `seconds`; the shared client if that is long enough."""
        if seconds >= READ_SECONDS:
            yield self._runtime
            return
        with closing(runtime(self.target.url, self.region, seconds)) as client:
            yield client

    @cached_property
    def _storage(self) -> Any:
        if self.given_storage is not None:
            return self.given_storage
        settings = Config(retries={"mode": "standard", "total_max_attempts": self.retry.attempts})
        return service("s3", region_name=self.region, config=settings)
