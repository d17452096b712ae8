"""Deregisters endpoints from autoscaling before they are changed or deleted.

SageMaker refuses another instance type for a variant that is registered with Application Auto Scaling. The stack's
state machine registers each endpoint that comes into service. Source: "Update endpoints that use automatic scaling"
(endpoint-scaling-update).
"""

from collections.abc import Callable, Mapping
from typing import Any

from mammopipe.pipelines.backends.control_plane import find_endpoint
from mammopipe.pipelines.backends.sessions import aws_errors
from mammopipe.pipelines.config.pipeline import PipelineConfig

TARGET: Mapping[str, str] = {
    "ServiceNamespace": "sagemaker",
    "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
}


def stop_scaling(scaling: Any, endpoint: str) -> None:
    """Deregister an endpoint's variant from autoscaling, if it is registered."""
    resource = f"endpoint/{endpoint}/variant/AllTraffic"
    if scaling.describe_scalable_targets(ResourceIds=[resource], **TARGET)["ScalableTargets"]:
        scaling.deregister_scalable_target(ResourceId=resource, **TARGET)


def release_candidates(
    config: PipelineConfig, instance_type: str, sagemaker: Any, scaling: Any, say: Callable[[str], None]
) -> None:
    """Deregister the runs' endpoints if the next run changes their instance type.

    Otherwise AWS would refuse the run's last step, after all earlier steps were paid.

    Args:
        config: The configuration of the next run.
        instance_type: The instance type of its endpoints.
        sagemaker: A boto3 client of SageMaker.
        scaling: A boto3 client of Application Auto Scaling.
        say: Called with each line for the user.

    Raises:
        ConfigError: AWS refused.
    """
    for name in config.endpoint.candidate.names if config.deploy else ():
        with aws_errors():
            endpoint = find_endpoint(sagemaker, name)
            if endpoint is None:
                continue
            settings = sagemaker.describe_endpoint_config(EndpointConfigName=endpoint["EndpointConfigName"])
            before = settings["ProductionVariants"][0].get("InstanceType")
            if before not in (None, instance_type):
                stop_scaling(scaling, name)
                say(f"Endpoint {name}: no autoscaling until this run has changed it from {before} to {instance_type}")
