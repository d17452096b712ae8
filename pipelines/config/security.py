"""SecurityConfig: who runs the jobs, and behind which walls."""

import re
from dataclasses import dataclass
from enum import StrEnum

from mammopipe.processing.errors import ConfigError

ROLE = r"arn:aws[a-z-]*:iam::\d{12}:role/.+"


class Duty(StrEnum):
    """What a role is for."""

    PROCESSING = "processing"
    TRAINING = "training"
    SERVING = "serving"


@dataclass(frozen=True)
class SecurityConfig:
    """Who runs the jobs, and behind which walls."""

    role: str = "arn:aws:iam::000000000000:role/mammopipe"
    """ARN of the pipeline's own role, and of every duty without a role; this default serves the local backends only."""
    processing_role: str = ""
    """ARN of the role of processing jobs; empty: `role`."""
    training_role: str = ""
    """ARN of the role of training jobs; empty: `role`."""
    serving_role: str = ""
    """ARN of the role of models behind endpoints; empty: `role`."""
    kms_key: str = ""
    """Key of volumes and outputs; when set, it becomes the default of the pipeline parameter KmsKeyId."""
    network_isolation: bool = True
    """Whether containers run without any network of their own."""
    subnets: tuple[str, ...] = ()
    security_groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse half a VPC and a role that is no ARN."""
        if bool(self.subnets) != bool(self.security_groups):
            raise ConfigError("security: subnets and security_groups go together")
        for name in ("role", *(f"{duty}_role" for duty in Duty)):
            value = getattr(self, name)
            if (value or name == "role") and re.fullmatch(ROLE, value) is None:
                raise ConfigError(f"security.{name}={value!r}: an ARN as arn:aws:iam::123456789012:role/NAME")

    def role_for(self, duty: Duty) -> str:
        """Return the ARN of the role that a duty is done in."""
        return str(getattr(self, f"{duty}_role") or self.role)
