"""Removes an endpoint on AWS with its configuration and models: `mammopipe delete --endpoint NAME`.

Everything is looked up and checked before anything is deleted. What lacks the configuration's tags was made by somebody
else and is refused.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from mammopipe.pipelines.backends.control_plane import is_missing
from mammopipe.pipelines.backends.sessions import aws_errors
from mammopipe.pipelines.config.pipeline import PipelineConfig
from mammopipe.processing.errors import ConfigError

DELETABLE = ("InService", "Failed", "OutOfService", "UpdateRollbackFailed")
"""The statuses in which SageMaker deletes an endpoint."""
TARGET = {"ServiceNamespace": "sagemaker", "ScalableDimension": "sagemaker:variant:DesiredInstanceCount"}


@dataclass(frozen=True)
class Removal:
    """What is deleted together."""

    endpoint: str
    status: str
    endpoint_config: str
    models: tuple[str, ...]
    clinical: bool
    """Whether it is an endpoint that a clinic calls, not a run's candidate."""

    def lines(self) -> list[str]:
        """Return what is deleted, one line each."""
        called = "the endpoint that a clinic calls" if self.clinical else "a run's candidate"
        return [
            f"endpoint {self.endpoint} ({self.status}): {called}",
            f"endpoint configuration {self.endpoint_config}",
            *(f"model {name}" for name in self.models),
        ]


@dataclass(frozen=True)
class Services:
    """The AWS clients that a removal uses."""

    sagemaker: Any
    scaling: Any
    cloudwatch: Any


def plan(config: PipelineConfig, sagemaker: Any, name: str) -> Removal:
    """Return what belongs to an endpoint; deletes nothing.

    Args:
        config: The configuration; it names the endpoints and the tags.
        sagemaker: A boto3 client of SageMaker.
        name: Name of the endpoint.

    Returns:
        The endpoint with its configuration and models.

    Raises:
        ConfigError: The configuration has no such endpoint, there is none on AWS, something lacks the tags, or the
            endpoint is being created, updated or deleted.
    """
    candidates = config.endpoint.candidate.names
    known = (*config.endpoint.names, *candidates)
    if name not in known:
        raise ConfigError(f"endpoint {name}: not of this configuration, whose endpoints are {', '.join(known)}")
    with aws_errors():
        try:
            endpoint = sagemaker.describe_endpoint(EndpointName=name)
        except ClientError as error:
            if not is_missing(error):
                raise
            raise ConfigError(f"endpoint {name}: there is none in this account and region") from None
        _require_ours(config, sagemaker, f"endpoint {name}", endpoint["EndpointArn"])
        if endpoint["EndpointStatus"] not in DELETABLE:
            raise ConfigError(f"endpoint {name}: it is {endpoint['EndpointStatus']}; wait until that has ended")
        settings = sagemaker.describe_endpoint_config(EndpointConfigName=endpoint["EndpointConfigName"])
        _require_ours(config, sagemaker, f"endpoint configuration {settings['EndpointConfigName']}",
                      settings["EndpointConfigArn"])  # fmt: skip
        models = tuple(dict.fromkeys(variant["ModelName"] for variant in settings["ProductionVariants"]))
        for model in models:
            arn = sagemaker.describe_model(ModelName=model)["ModelArn"]
            _require_ours(config, sagemaker, f"model {model}", arn)
    return Removal(name, endpoint["EndpointStatus"], settings["EndpointConfigName"], models, name not in candidates)


def _require_ours(config: PipelineConfig, sagemaker: Any, what: str, arn: str) -> None:
    tags = {item["Key"]: item["Value"] for item in sagemaker.list_tags(ResourceArn=arn)["Tags"]}
    if not config.tags or not config.tags.items() <= tags.items():
        wanted = ", ".join(f"{key}={value}" for key, value in config.tags.items()) or "tags"
        raise ConfigError(f"{what}: it lacks {wanted}, so mammopipe did not make it and does not delete it")


def remove(removal: Removal, services: Services, say: Callable[[str], None]) -> None:
    """Delete what `plan` found: first the autoscaling, then endpoint, configuration and models.

    Args:
        removal: What is deleted.
        services: The AWS clients.
        say: Called with each line for the user.

    Raises:
        ConfigError: AWS refused; what was deleted before is gone.
    """
    name = removal.endpoint
    with aws_errors():
        resource: Mapping[str, Any] = {"ResourceId": f"endpoint/{name}/variant/AllTraffic", **TARGET}
        scaled = services.scaling.describe_scalable_targets(ResourceIds=[resource["ResourceId"]], **TARGET)
        if scaled["ScalableTargets"]:
            services.scaling.deregister_scalable_target(**resource)
        # The alarm that wakes an async endpoint was made by the approval, not by autoscaling itself.
        services.cloudwatch.delete_alarms(AlarmNames=[f"{name}-wake"])
        services.sagemaker.delete_endpoint(EndpointName=name)
        services.sagemaker.get_waiter("endpoint_deleted").wait(EndpointName=name)
        say(f"Deleted endpoint {name}")
        services.sagemaker.delete_endpoint_config(EndpointConfigName=removal.endpoint_config)
        say(f"Deleted endpoint configuration {removal.endpoint_config}")
        for model in removal.models:
            services.sagemaker.delete_model(ModelName=model)
            say(f"Deleted model {model}")
