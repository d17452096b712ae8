"""How much a request may bring once it is unpacked, and where from."""

import math
from dataclasses import dataclass

from mammopipe.inference.contract.task import Task
from mammopipe.processing.errors import ConfigError

FILES_AN_IMAGE = 8
"""Reports, presentation states, texts and the files of a viewer that come with an image, on average at most."""


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
    def max_files(self) -> int:
        """Files that an archive may hold: the images, and what a PACS adds to them."""
        return FILES_AN_IMAGE * self.max_views

    @property
    def exam_bytes(self) -> int:
        """Bytes that the images of an exam may have together."""
        return self.max_bytes * self.expansion

    @classmethod
    def of(cls, task: Task) -> "HandlerLimits":
        """Return the limits that a task carries."""
        return cls(max_views=task.max_views, max_bytes=task.max_bytes, s3_prefix=task.s3_prefix)
