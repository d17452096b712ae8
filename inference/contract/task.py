"""What travels between the server and its workers: a request whose headers are accepted, and its answer.

Nothing here imports torch, numpy or the image reader: the process that takes requests in stays light.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from mammopipe.inference.contract.media_types import AnswerType, ImageType
from mammopipe.inference.contract.schema import RequestOptions


class ExamType(StrEnum):
    """The forms in which a request may carry several images."""

    JSON = "application/json"
    MULTIPART = "multipart/form-data"
    ZIP = "application/zip"


BodyType = ImageType | ExamType


def body_type(header: str) -> BodyType | None:
    """Return what a Content-Type header names, parameters aside, or `None` for any type that is not read."""
    name = header.split(";")[0].strip().lower()
    if name in set(ImageType):
        return ImageType(name)
    return ExamType(name) if name in set(ExamType) else None


@dataclass(frozen=True)
class Task:
    """A request whose headers are accepted and whose body is read."""

    request_id: str
    body: bytes = field(repr=False)
    options: RequestOptions
    form: AnswerType
    kind: BodyType = ImageType.PGM
    """What the Content-Type names."""
    content_type: str = ""
    """The whole Content-Type header: the boundary of a multipart body is in it."""
    max_views: int = 16
    """Images that an exam may have."""
    s3_prefix: str = ""
    """Where the S3 objects that an exam names may lie; empty: nowhere."""
    max_bytes: int = 64 * 2**20
    """Bytes of one image, once it is unpacked or fetched."""


@dataclass(frozen=True)
class Reply:
    """The answer to a task."""

    body: bytes = field(repr=False)
    form: AnswerType
    attributes: str
    """For the custom attributes header: the scores, so that an overlay does not come without them."""
    facts: dict[str, Any]
    """For the log: numbers and codes, nothing that identifies anybody."""
