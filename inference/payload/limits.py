"""Limits on the unpacked content of a request, and the S3 prefix that it may read from."""

import math
from dataclasses import dataclass

from mammopipe.inference.contract.task import Task
from mammopipe.processing.errors import ConfigError

FILES_AN_IMAGE = 8
"""Most files per image on average, including reports, presentation states, texts and the files of a viewer."""


@dataclass(frozen=True)
class HandlerLimits:
    """Limits on the content of a request."""

    max_views: int = 16
    """Most images of an exam."""
    max_bytes: int = 64 * 2**20
    """Most bytes of one image after it is unpacked or fetched."""
    expansion: int = 8
    """Most bytes of an exam's images together, as a multiple of `max_bytes`; an archive announces its size."""
    s3_prefix: str = ""
    """`s3://BUCKET/FOLDER` below which `s3_uri` may name objects; empty allows no `s3_uri`."""

    def __post_init__(self) -> None:
        """Refuse limits that allow no image, and a prefix without a bucket."""
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
        """Most files of an archive: the images and the files that a PACS adds to them."""
        return FILES_AN_IMAGE * self.max_views

    @property
    def exam_bytes(self) -> int:
        """Most bytes of an exam's images together."""
        return self.max_bytes * self.expansion

    @classmethod
    def of(cls, task: Task) -> "HandlerLimits":
        """Return the limits in a task."""
        return cls(max_views=task.max_views, max_bytes=task.max_bytes, s3_prefix=task.s3_prefix)
