"""TransformConfig: batch transform, which answers every object below an S3 prefix without an endpoint."""

from collections.abc import Mapping

from pydantic import Field, model_validator

from mammopipe.processing.errors import ConfigError
from mammopipe.processing.settings import Settings

MOST_PAYLOAD_MB = 100
"""SageMaker's limit for one request's body, and for the bodies of all concurrent requests to an instance together."""
LONGEST_SECONDS = 3600
"""SageMaker's limit for one answer (`InvocationsTimeoutInSeconds`)."""


class TransformConfig(Settings):
    """The batch transform of a registered model. Each object is one request: an image, or an exam as ZIP or JSON."""

    input: str = Field(
        default="",
        description="`s3://` folder whose images and exams the registered model answers in the same run (parameter "
        "TransformInputUri); empty: none",
    )
    instance_type: str = Field(default="ml.m5.xlarge", description="instance type of a transform job")
    instance_count: int = Field(default=1, ge=1, description="instances of a transform job")
    concurrent: int = Field(default=2, ge=1, le=100, description="requests that one instance gets at a time")
    max_payload_mb: int = Field(default=50, ge=1, le=MOST_PAYLOAD_MB, description="largest image or exam, in MB")
    max_seconds: int = Field(
        default=600, ge=1, le=LONGEST_SECONDS, description="longest time for one answer, in seconds"
    )

    @model_validator(mode="after")
    def _check(self) -> "TransformConfig":
        """Refuse a place that is not on S3, and limits that SageMaker would refuse."""
        if self.input and not self.input.startswith("s3://"):
            raise ConfigError(f"transform.input={self.input!r}: must be an s3:// folder")
        if self.concurrent * self.max_payload_mb > MOST_PAYLOAD_MB:
            raise ConfigError(
                f"transform.concurrent={self.concurrent} times transform.max_payload_mb={self.max_payload_mb}: at most "
                f"{MOST_PAYLOAD_MB} MB together"
            )
        return self

    @property
    def environment(self) -> Mapping[str, str]:
        """The limits of the container during a transform job."""
        return {
            "MAMMOPIPE_MAX_BYTES": str(self.max_payload_mb * 2**20),
            "MAMMOPIPE_MAX_SECONDS": str(self.max_seconds),
            "MAMMOPIPE_MAX_WAITING": str(max(8, self.concurrent)),
        }
