"""Removes an endpoint on AWS with its configurations and models, also earlier ones: `mammopipe delete --endpoint NAME`.

Everything is looked up and checked before anything is deleted. A resource without the configuration's tags was made by
somebody else: an endpoint that uses one is not removed, and one of an earlier deployment stays.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mammopipe.pipelines.account import leftovers
from mammopipe.pipelines.account.scaling import stop_scaling
from mammopipe.pipelines.backends.control_plane import find_endpoint
from mammopipe.pipelines.backends.sessions import aws_errors
from mammopipe.pipelines.config.endpoint import EndpointMode
from mammopipe.pipelines.config.pipeline import PipelineConfig
from mammopipe.pipelines.runs.aws_rollout import mode_of
from mammopipe.processing.errors import ConfigError

DELETABLE = ("InService", "Failed", "OutOfService", "UpdateRollbackFailed")
"""The statuses in which SageMaker deletes an endpoint."""


@dataclass(frozen=True)
class Removal:
    """The resources that are deleted together."""

    endpoint: str
    status: str
    """The endpoint's status; empty if the endpoint does not exist and only leftovers of it are deleted."""
    endpoint_configs: tuple[str, ...]
    models: tuple[str, ...]
    clinical: bool
    """Whether it is an endpoint that a clinic calls, not a run's candidate."""

    def lines(self) -> list[str]:
        """Return what is deleted, one line each."""
        role = "the endpoint that a clinic calls" if self.clinical else "a run's candidate"
        return [
            f"endpoint {self.endpoint} ({self.status or 'there is none'}): {role}",
            *(f"endpoint configuration {name}" for name in self.endpoint_configs),
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
        The endpoint with its configuration and models, and those of its earlier deployments that nothing uses.

    Raises:
        ConfigError: The configuration has no such endpoint, nothing of it exists on AWS, one of its resources lacks the
            tags, or it is being created, updated or deleted.
    """
    candidates = config.endpoint.candidate.names
    known = (*config.endpoint.names, *candidates)
    if name not in known:
        raise ConfigError(f"endpoint {name}: not of this configuration, whose endpoints are {', '.join(known)}")
    with aws_errors():
        status, used, models, mode = _current(config, sagemaker, name)
        left, left_models = leftovers.find(config, sagemaker, candidate=name in candidates, mode=mode)
    if not (status or left or left_models):
        raise ConfigError(
            f"endpoint {name}: does not exist in this account and region, and earlier deployments left nothing"
        )
    everything = tuple(dict.fromkeys((*models, *left_models)))
    return Removal(name, status, (*used, *left), everything, name not in candidates)


def _current(
    config: PipelineConfig, sagemaker: Any, name: str
) -> tuple[str, tuple[str, ...], tuple[str, ...], EndpointMode | None]:
    """Return an endpoint's status, configuration, models and mode; the status is empty if there is no endpoint."""
    endpoint = find_endpoint(sagemaker, name)
    if endpoint is None:
        return "", (), (), None
    _require_ours(config, sagemaker, f"endpoint {name}", endpoint["EndpointArn"])
    if endpoint["EndpointStatus"] not in DELETABLE:
        raise ConfigError(f"endpoint {name}: it is {endpoint['EndpointStatus']}; wait until this has ended")
    settings = sagemaker.describe_endpoint_config(EndpointConfigName=endpoint["EndpointConfigName"])
    used = settings["EndpointConfigName"]
    _require_ours(config, sagemaker, f"endpoint configuration {used}", settings["EndpointConfigArn"])
    models = tuple(dict.fromkeys(variant["ModelName"] for variant in settings["ProductionVariants"]))
    for model in models:
        _require_ours(config, sagemaker, f"model {model}", sagemaker.describe_model(ModelName=model)["ModelArn"])
    return endpoint["EndpointStatus"], (used,), models, mode_of(settings)


def _require_ours(config: PipelineConfig, sagemaker: Any, what: str, arn: str) -> None:
    if not leftovers.is_ours(config, sagemaker, arn):
        wanted = ", ".join(f"{key}={value}" for key, value in config.tags.items()) or "tags"
        raise ConfigError(f"{what}: it lacks {wanted}, so mammopipe did not create it and does not delete it")


def remove(removal: Removal, services: Services, say: Callable[[str], None]) -> None:
    """Delete what `plan` found: first the autoscaling, then endpoint, configuration and models.

    Args:
        removal: What is deleted.
        services: The AWS clients.
        say: Called with each line for the user.

    Raises:
        ConfigError: AWS refused a request; what was deleted before it stays deleted.
    """
    name = removal.endpoint
    with aws_errors():
        if removal.status:
            stop_scaling(services.scaling, name)
            # The stack created the alarm that wakes an async endpoint, so deregistering the target does not delete it.
            services.cloudwatch.delete_alarms(AlarmNames=[f"{name}-wake"])
            services.sagemaker.delete_endpoint(EndpointName=name)
            services.sagemaker.get_waiter("endpoint_deleted").wait(EndpointName=name)
            say(f"Deleted endpoint {name}")
        for settings in removal.endpoint_configs:
            services.sagemaker.delete_endpoint_config(EndpointConfigName=settings)
            say(f"Deleted endpoint configuration {settings}")
        for model in removal.models:
            services.sagemaker.delete_model(ModelName=model)
            say(f"Deleted model {model}")
