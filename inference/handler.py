"""What passes between the server's process and a worker's: a task, its reply. Light, so that the server stays so."""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from inference.media import AnswerType
from inference.schema import RequestOptions
from processing.errors import ConfigError

if TYPE_CHECKING:
    from inference.predictor import Predictor
    from processing.image_rules import ReadConfig


@dataclass(frozen=True)
class HandlerLimits:
    """How much a request may bring, and where from."""

    max_views: int = 16
    """Images of an exam."""
    max_bytes: int = 64 * 2**20
    """Bytes of one image, once it is unpacked or fetched."""
    expansion: int = 8
    """How many times `max_bytes` the images of an exam may have together; an archive announces it."""
    s3_prefix: str = ""
    """`s3://BUCKET/FOLDER` below which `s3_uri` may name objects; empty: no `s3_uri` is followed."""

    def __post_init__(self) -> None:
        """Refuse limits under which no image could be answered, and a prefix that names no bucket."""
        for name in ("max_views", "max_bytes", "expansion"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 1):
                raise ConfigError(f"HandlerLimits.{name}={value} must be at least 1")
        if self.s3_prefix and not self.s3_prefix.removeprefix("s3://").split("/")[0]:
            raise ConfigError(f"HandlerLimits.s3_prefix={self.s3_prefix!r} must be s3://BUCKET or s3://BUCKET/FOLDER")
        if self.s3_prefix and not self.s3_prefix.startswith("s3://"):
            raise ConfigError(f"HandlerLimits.s3_prefix={self.s3_prefix!r} must begin with s3://")

    @property
    def exam_bytes(self) -> int:
        """Bytes that the images of an exam may have together."""
        return self.max_bytes * self.expansion


@dataclass(frozen=True)
class Task:
    """A request whose headers are accepted and whose body is read."""

    request_id: str
    content_type: str
    """The whole header: a form's boundary is a parameter of it."""
    body: bytes
    options: RequestOptions
    """Of headers and query; a JSON body may add to them."""
    form: AnswerType
    limits: HandlerLimits = HandlerLimits()


@dataclass(frozen=True)
class Reply:
    """The answer to a task."""

    body: bytes
    form: AnswerType
    attributes: str
    """For the custom attributes header: the scores, so that an overlay does not come without them."""
    facts: dict[str, Any] = field(default_factory=dict)
    """For the log: numbers and codes, nothing that identifies anybody."""


def answer(predictor: "Predictor", task: Task, reading: "ReadConfig") -> Reply:
    """Return the reply to a task; raises `RequestError` where the body, an image or an option cannot be used."""
    # Only where images are answered: it loads OpenCV, and the process that takes requests in holds tasks only.
    from inference.answering import answer_task

    return answer_task(predictor, task, reading)
