"""SecurityConfig: the roles, network and keys of the jobs; also AWS's rules for tags."""

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from mammopipe.processing.errors import ConfigError
from mammopipe.processing.settings import Settings

ROLE = r"arn:aws[a-z-]*:iam::\d{12}:role/.+"

MOST_TAGS, LONGEST_KEY, LONGEST_VALUE = 50, 128, 256
"""Limits of AWS ("Tag", SageMaker API reference)."""


def check_tags(tags: Mapping[str, str]) -> Mapping[str, str]:
    """Return the tags; raises `ConfigError` for one that AWS would refuse."""
    if len(tags) > MOST_TAGS:
        raise ConfigError(f"tags: {len(tags)}; AWS takes at most {MOST_TAGS}")
    for key, value in tags.items():
        if key.lower().startswith("aws:"):
            raise ConfigError(f"tags.{key}: AWS reserves the prefix aws:")
        for text, longest in ((key, LONGEST_KEY), (value, LONGEST_VALUE)):
            if len(text) > longest or re.fullmatch(r"[\w .:/=+\-@]*", text) is None or not key:
                raise ConfigError(
                    f"tags.{key} = {value!r}: must have only letters, digits, spaces and . : / = + - @ _, at most "
                    f"{LONGEST_KEY} characters in a key and {LONGEST_VALUE} in a value"
                )
    return tags


Tags = Annotated[Mapping[str, str], AfterValidator(check_tags)]


class Duty(StrEnum):
    """The purpose of a role."""

    PROCESSING = "processing"
    TRAINING = "training"
    SERVING = "serving"


class SecurityConfig(Settings):
    """The roles, network and keys of the jobs."""

    role: str = Field(
        default="arn:aws:iam::000000000000:role/mammopipe",
        description="ARN of the pipeline's own role, used also for each kind of job whose role is empty; the default "
        "works only on the local backends",
    )
    processing_role: str = Field(default="", description="ARN of the role of processing jobs; empty: `role`")
    training_role: str = Field(default="", description="ARN of the role of training jobs; empty: `role`")
    serving_role: str = Field(default="", description="ARN of the role of models behind endpoints; empty: `role`")
    kms_key: str = Field(
        default="",
        description="KMS key that encrypts volumes and outputs; when set, the default of the parameter KmsKeyId",
    )
    network_isolation: bool = Field(default=True, description="whether containers run without network access")
    subnets: tuple[str, ...] = Field(default=(), description="subnets of the jobs' VPC; with `security_groups`")
    security_groups: tuple[str, ...] = Field(default=(), description="security groups of the jobs; with `subnets`")

    @model_validator(mode="after")
    def _check(self) -> "SecurityConfig":
        """Refuse an incomplete VPC and a role that is not an ARN."""
        if bool(self.subnets) != bool(self.security_groups):
            raise ConfigError("security: subnets and security_groups must be set together")
        for name in ("role", *(f"{duty}_role" for duty in Duty)):
            value = getattr(self, name)
            if (value or name == "role") and re.fullmatch(ROLE, value) is None:
                raise ConfigError(f"security.{name}={value!r}: must be an ARN: arn:aws:iam::123456789012:role/NAME")
        return self

    def role_for(self, duty: Duty) -> str:
        """Return the ARN of the role for a duty."""
        return str(getattr(self, f"{duty}_role") or self.role)
