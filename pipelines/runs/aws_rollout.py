"""Serve a registered package on AWS: `mammopipe deploy --package ARN`, and `--rollback` to the one before it.

The requests are those of the pipeline itself, read from the compiled definition; only the model's artefact comes from
the package. An existing endpoint is updated without downtime: new instances start beside the old ones, take the traffic
once they respond, and are removed again if an alarm of `endpoint.rollback_alarms` fires.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError, WaiterError

from mammopipe.pipelines.account.scaling import stop_scaling
from mammopipe.pipelines.backends.control_plane import find_endpoint
from mammopipe.pipelines.backends.expressions import Scope, resolve
from mammopipe.pipelines.backends.sessions import PLACEHOLDER_ACCOUNT, aws_errors
from mammopipe.pipelines.backends.supported import all_steps
from mammopipe.pipelines.config.endpoint import EndpointMode
from mammopipe.pipelines.config.pipeline import PipelineConfig
from mammopipe.pipelines.graph.definition import build_promotion
from mammopipe.pipelines.graph.parameters import resolve_parameters
from mammopipe.processing.errors import ConfigError

PACKAGE = re.compile(r"arn:aws[a-z-]*:sagemaker:[a-z0-9-]+:\d{12}:model-package/(?P<group>[^/]+)/(?P<version>\d+)")
WAIT = {"Delay": 15, "MaxAttempts": 480}
"""Two hours: enough to start the instances and to monitor the update for an hour."""


@dataclass(frozen=True)
class Rollout:
    """The requests that one endpoint needs."""

    model: Mapping[str, Any]
    endpoint_config: Mapping[str, Any]
    endpoint: Mapping[str, Any]


def deploy(
    config: PipelineConfig, sagemaker: Any, scaling: Any, package: str, *, wait: bool, say: Callable[[str], None]
) -> None:
    """Serve the package of an ARN on the endpoints of `config`; creates them, or updates them without downtime.

    Args:
        config: The configuration.
        sagemaker: A boto3 client of SageMaker.
        scaling: A boto3 client of Application Auto Scaling.
        package: ARN of the model package.
        wait: Whether to return only once the endpoints serve the package.
        say: Called with each line for the user.

    Raises:
        ConfigError: The ARN is not a package's; the package is not approved; an endpoint is busy, has failed or has
            another mode; or an update was rolled back.
    """
    if PLACEHOLDER_ACCOUNT in config.security.role:
        raise ConfigError(f"security.role={config.security.role}: set the role of your account")
    version = _version(package)
    with aws_errors():
        status = sagemaker.describe_model_package(ModelPackageName=package)["ModelApprovalStatus"]
        if status != "Approved":
            raise ConfigError(f"{package}: its status is {status}; only an approved package is deployed")
        rollouts = _rollouts(config, package, version)
        for name, rollout in rollouts.items():
            _create(sagemaker.create_model, rollout.model)
            _create(sagemaker.create_endpoint_config, rollout.endpoint_config)
            _point(sagemaker, scaling, name, rollout, config, say)
        for name, rollout in rollouts.items() if wait else ():
            _await(sagemaker, name, str(rollout.endpoint_config["EndpointConfigName"]), say)


def previous(config: PipelineConfig, sagemaker: Any) -> str:
    """Return the ARN of the newest approved package that is older than the one served now.

    Raises `ConfigError` if there is none, or if the served model is not a package of the group.
    """
    with aws_errors():
        served = _served(config, sagemaker)
        older = [
            str(item["ModelPackageArn"])
            for page in sagemaker.get_paginator("list_model_packages").paginate(
                ModelPackageGroupName=config.registry.group, ModelApprovalStatus="Approved"
            )
            for item in page["ModelPackageSummaryList"]
            if item["ModelPackageVersion"] < _version(served)
        ]
    if not older:
        raise ConfigError(f"{served}: there is no approved package before it in the group {config.registry.group}")
    return max(older, key=_version)


def _version(package: str) -> int:
    match = PACKAGE.fullmatch(package)
    if match is None:
        raise ConfigError(f"{package}: must be an ARN: arn:aws:sagemaker:REGION:ACCOUNT:model-package/GROUP/VERSION")
    return int(match["version"])


def _rollouts(config: PipelineConfig, package: str, version: int) -> dict[str, Rollout]:
    """Return the requests that the pipeline of `config` would make for this package, by endpoint."""
    definition = json.loads(build_promotion(config).definition())
    steps = {step["Name"]: step["Arguments"] for step in all_steps(definition["Steps"])}
    execution = {"PipelineExecutionId": str(version), "PipelineName": config.name}
    scope = Scope(resolve_parameters(definition, {}), execution)
    suffixes = [suffix for suffix in ("", "-async") if f"Model{suffix}" in steps]
    if not suffixes:
        raise ConfigError("deploy=false: the configuration has no endpoint")
    rollouts = [_rollout(steps, scope, package, suffix) for suffix in suffixes]
    return {str(rollout.endpoint["EndpointName"]): rollout for rollout in rollouts}


def _rollout(steps: Mapping[str, Any], scope: Scope, package: str, suffix: str) -> Rollout:
    """Return the requests of one endpoint.

    The names of its model and configuration end in a digest of their content. Changed settings therefore create new
    ones; the same settings find the existing ones.
    """
    container = {"ModelPackageName": package}
    if variables := steps[f"Model{suffix}"]["PrimaryContainer"].get("Environment"):
        container["Environment"] = variables
    model = resolve({**steps[f"Model{suffix}"], "PrimaryContainer": container}, scope)
    scope.steps[f"Model{suffix}"] = {"ModelName": ""}
    settings = resolve(steps[f"EndpointConfig{suffix}"], scope)
    digest = hashlib.sha256(json.dumps([model, settings], sort_keys=True).encode()).hexdigest()[:8]
    name = f"{settings['EndpointConfigName']}-{digest}"
    variants = [{**variant, "ModelName": name} for variant in settings["ProductionVariants"]]
    scope.steps[f"EndpointConfig{suffix}"] = {"EndpointConfigName": name}
    return Rollout(
        {**model, "ModelName": name},
        {**settings, "EndpointConfigName": name, "ProductionVariants": variants},
        resolve(steps[f"Endpoint{suffix}"], scope),
    )


def _create(call: Callable[..., Any], request: Mapping[str, Any]) -> None:
    """Create a model or a configuration, unless an earlier deployment of the same package and settings did."""
    try:
        call(**request)
    except ClientError as error:
        if "already exist" not in error.response["Error"].get("Message", ""):
            raise


def mode_of(settings: Mapping[str, Any]) -> EndpointMode:
    """Return the serving mode of an endpoint configuration."""
    if settings["ProductionVariants"][0].get("ServerlessConfig"):
        return EndpointMode.SERVERLESS
    return EndpointMode.ASYNC if settings.get("AsyncInferenceConfig") else EndpointMode.REALTIME


def _require_same_mode(name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Refuse a change of the serving mode, which SageMaker does not support ("Update a serverless endpoint")."""
    if mode_of(before) is not mode_of(after):
        raise ConfigError(
            f"endpoint {name}: its mode is {mode_of(before)}, the configuration's is {mode_of(after)}, and SageMaker "
            f"cannot change it. Delete the endpoint (mammopipe delete --endpoint {name}), then deploy again"
        )


def _changes_instances(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    return len({settings["ProductionVariants"][0].get("InstanceType") for settings in (before, after)}) > 1


def _point(
    sagemaker: Any, scaling: Any, name: str, rollout: Rollout, config: PipelineConfig, say: Callable[[str], None]
) -> None:
    """Create the endpoint, or update it to the new configuration."""
    settings = str(rollout.endpoint_config["EndpointConfigName"])
    now = find_endpoint(sagemaker, name)
    if now is None:
        sagemaker.create_endpoint(**rollout.endpoint)
        say(f"Endpoint {name}: being created with {settings}")
        return
    if now["EndpointConfigName"] == settings:
        say(f"Endpoint {name}: already has {settings}")
        return
    if now["EndpointStatus"] != "InService":
        raise ConfigError(f"endpoint {name}: it is {now['EndpointStatus']}, which cannot be updated; see doctor --aws")
    before = sagemaker.describe_endpoint_config(EndpointConfigName=now["EndpointConfigName"])
    _require_same_mode(name, before, rollout.endpoint_config)
    if _changes_instances(before, rollout.endpoint_config):
        # The stack registers it again once it is in service.
        stop_scaling(scaling, name)
    sagemaker.update_endpoint(**_update(rollout, config, before))
    say(f"Endpoint {name}: being moved from {now['EndpointConfigName']} to {settings}, without downtime")


def _update(rollout: Rollout, config: PipelineConfig, before: Mapping[str, Any]) -> dict[str, Any]:
    """Return the request that updates an endpoint from the configuration `before`; uses the new data capture settings.

    Instances that autoscaling added are kept, unless the configured count itself has changed.
    """
    request = {key: value for key, value in rollout.endpoint.items() if key != "Tags"}
    if config.endpoint.mode is not EndpointMode.SERVERLESS:
        both = (before["ProductionVariants"][0], rollout.endpoint_config["ProductionVariants"][0])
        counts = {variant.get("InitialInstanceCount") for variant in both}
        changed = ["DataCaptureConfig", *(["DesiredInstanceCount"] if len(counts) > 1 else [])]
        request["RetainAllVariantProperties"] = True
        request["ExcludeRetainedVariantProperties"] = [{"VariantPropertyType": name} for name in changed]
        request |= _guardrails(str(request["EndpointName"]), config)
    return request


def _guardrails(name: str, config: PipelineConfig) -> dict[str, Any]:
    """Return the deployment settings of an update: start new instances, switch all traffic, roll back on an alarm.

    They apply to real-time and async endpoints, not to serverless ones ("Deployment guardrails"). A canary would need a
    second instance, which an idle endpoint may not have.
    """
    settings = config.endpoint
    alarms = settings.rollback_alarms
    if name != settings.name:  # the stack names the async endpoint's alarms in the same way
        alarms = tuple(f"{name}-5xx" for alarm in alarms if alarm == f"{settings.name}-5xx")
    if not alarms:
        return {}
    policy = {
        "TrafficRoutingConfiguration": {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": settings.bake_seconds},
        "TerminationWaitInSeconds": 300,
        "MaximumExecutionTimeoutInSeconds": settings.bake_seconds + 3600,
    }
    rollback = {"Alarms": [{"AlarmName": alarm} for alarm in alarms]}
    return {"DeploymentConfig": {"BlueGreenUpdatePolicy": policy, "AutoRollbackConfiguration": rollback}}


def _await(sagemaker: Any, name: str, settings: str, say: Callable[[str], None]) -> None:
    """Wait until an endpoint serves a configuration; an update that alarms rolled back is an error."""
    # If it never comes into service, the description below says why.
    with suppress(WaiterError):
        sagemaker.get_waiter("endpoint_in_service").wait(EndpointName=name, WaiterConfig=WAIT)
    now = sagemaker.describe_endpoint(EndpointName=name)
    if now["EndpointStatus"] != "InService":
        raise ConfigError(f"endpoint {name}: it is {now['EndpointStatus']}: {now.get('FailureReason', 'no reason')}")
    if now["EndpointConfigName"] != settings:
        reason = now.get("FailureReason", "an alarm fired")
        raise ConfigError(f"endpoint {name}: rolled back to {now['EndpointConfigName']}: {reason}")
    say(f"Endpoint {name}: serves {settings}")


def _served(config: PipelineConfig, sagemaker: Any) -> str:
    """Return the ARN of the served package; a model that the pipeline made itself is found by its artefact."""
    now = sagemaker.describe_endpoint(EndpointName=config.endpoint.names[0])
    variants = sagemaker.describe_endpoint_config(EndpointConfigName=now["EndpointConfigName"])["ProductionVariants"]
    model = sagemaker.describe_model(ModelName=variants[0]["ModelName"])
    container = model.get("PrimaryContainer") or model["Containers"][0]
    if container.get("ModelPackageName"):
        return str(container["ModelPackageName"])
    pages = sagemaker.get_paginator("list_model_packages").paginate(ModelPackageGroupName=config.registry.group)
    for item in (item for page in pages for item in page["ModelPackageSummaryList"]):
        package = sagemaker.describe_model_package(ModelPackageName=item["ModelPackageArn"])
        containers = package["InferenceSpecification"]["Containers"]
        if containers[0].get("ModelDataUrl") == container["ModelDataUrl"]:
            return str(item["ModelPackageArn"])
    raise ConfigError(
        f"endpoint {now['EndpointName']}: its model is not a package of the group {config.registry.group}"
    )
