"""The messages between the server and its workers: tasks and replies.

This module imports neither torch, numpy nor the image reader, to keep the process that receives requests small.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from mammopipe.inference.contract.media_types import AnswerType, ImageType, sniff
from mammopipe.inference.contract.request import RequestOptions


class ExamType(StrEnum):
    """The body types that can hold several images."""

    JSON = "application/json"
    MULTIPART = "multipart/form-data"
    ZIP = "application/zip"


BodyType = ImageType | ExamType


def body_type(header: str) -> BodyType | None:
    """Return the body type in a Content-Type header, ignoring parameters; `None` for an unsupported type."""
    name = header.split(";")[0].strip().lower()
    if name in set(ImageType):
        return ImageType(name)
    return ExamType(name) if name in set(ExamType) else None


def sniffed_type(head: bytes) -> BodyType | None:
    """Return the body type that the first bytes indicate: an image, an exam as ZIP or as JSON, or `None`."""
    if head.startswith(b"PK\x03\x04"):
        return ExamType.ZIP
    return ExamType.JSON if head.lstrip()[:1] == b"{" else sniff(head)


@dataclass(frozen=True)
class Task:
    """A request after its headers were accepted and its body was read."""

    request_id: str
    body: bytes = field(repr=False)
    options: RequestOptions
    form: AnswerType
    kind: BodyType = ImageType.PGM
    """The type in the Content-Type header."""
    content_type: str = ""
    """The whole Content-Type header, which includes the boundary of a multipart body."""
    max_views: int = 16
    """Most images of an exam."""
    s3_prefix: str = ""
    """Prefix of the S3 objects that an exam may name; empty allows none."""
    max_bytes: int = 64 * 2**20
    """Most bytes of one image after it is unpacked or fetched."""


@dataclass(frozen=True)
class Reply:
    """The answer to a task."""

    body: bytes = field(repr=False)
    form: AnswerType
    attributes: str
    """Value of the custom attributes header. It holds the scores, so that an overlay also comes with them."""
    facts: dict[str, Any]
    """Facts for the log: numbers and codes, nothing that identifies a person."""
