"""What the checks of `mammopipe doctor` share: findings, the AWS account, and calls that may find nothing."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from botocore.exceptions import ClientError

from mammopipe.pipelines.config.pipeline import PipelineConfig
from mammopipe.pipelines.data.s3 import QUICK

MISSING = {
    "404",
    "ImageNotFoundException",
    "InvalidGroup.NotFound",
    "InvalidSubnetID.NotFound",
    "NoSuchBucket",
    "NoSuchEntity",
    "NotFoundException",
    "RepositoryNotFoundException",
    "ValidationException",
}
"""Error codes that mean that the resource does not exist."""


class Severity(StrEnum):
    """The consequence of a finding for a run."""

    GOOD = "ok"
    WARNING = "warning"
    BLOCKS = "blocks"


@dataclass(frozen=True)
class CheckResult:
    """The result of one check."""

    verdict: Severity
    subject: str
    text: str
    """The state and, if there is a problem, what to do."""

    def __str__(self) -> str:
        return f"{self.verdict:<8}{self.subject}: {self.text}"


@dataclass(frozen=True)
class Account:
    """The caller's AWS account."""

    config: PipelineConfig
    session: Any
    """A boto3 session with the caller's credentials."""
    number: str
    """Twelve digits."""

    def client(self, service: str) -> Any:
        """Return a boto3 client."""
        return self.session.client(service, config=QUICK)


def found_or_none(call: Callable[..., Any], **request: Any) -> Any:
    """Return the response to a call, or None if the resource does not exist."""
    try:
        return call(**request)
    except ClientError as error:
        if error.response["Error"]["Code"] in MISSING:
            return None
        raise
