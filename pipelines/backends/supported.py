"""The request members that the process backend can run; anything else is refused by name before a step starts.

Members marked `ANY` are used, or have no meaning on one machine (roles, keys, networks, tags, volumes, warm pools). A
set lists the values that can be run. Retry policies apply only on AWS. Here a step runs once, or not at all if the step
cache (`mammopipe.pipelines.data.step_cache`) restores its results.
"""

from collections.abc import Iterator, Mapping
from functools import reduce
from typing import Any

from mammopipe.pipelines.backends.expressions import (
    CONDITIONS,
    Scope,
    all_references,
    condition_kinds,
    references,
    resolve,
)
from mammopipe.processing.errors import ConfigError

VERSION = "2020-12-01"
ANY: Any = object()
IMAGE_MEMBERS = (
    ("AppSpecification", "ImageUri"),
    ("AlgorithmSpecification", "TrainingImage"),
    ("TrainingJobDefinition", "AlgorithmSpecification", "TrainingImage"),
    ("PrimaryContainer", "Image"),
)
"""The members of requests that name a container image."""
BRANCHES = ("IfSteps", "ElseSteps")
"""The arguments of a condition that contain steps."""
STEP_MEMBERS = {
    "Name",
    "Type",
    "Arguments",
    "DependsOn",
    "DisplayName",
    "Description",
    "RetryPolicies",
    "CacheConfig",
    "PropertyFiles",
}

_S3_INPUT = {
    "S3Uri": ANY,
    "LocalPath": ANY,
    "S3DataType": {"S3Prefix"},
    "S3InputMode": {"File"},
    "S3DataDistributionType": {"FullyReplicated", "ShardedByS3Key"},
    "S3CompressionType": {"None"},
}
_PROCESSING = {
    "AppSpecification": {"ImageUri": ANY, "ContainerEntrypoint": ANY, "ContainerArguments": ANY},
    "ProcessingInputs": [{"InputName": ANY, "AppManaged": {False}, "S3Input": _S3_INPUT}],
    "ProcessingOutputConfig": {
        "KmsKeyId": ANY,
        "Outputs": [
            {
                "OutputName": ANY,
                "AppManaged": {False},
                "S3Output": {"S3Uri": ANY, "LocalPath": ANY, "S3UploadMode": {"EndOfJob"}},
            }
        ],
    },
    "ProcessingResources": {"ClusterConfig": ANY},
    "StoppingCondition": ANY,
    "Environment": ANY,
    "NetworkConfig": ANY,
    "RoleArn": ANY,
    "Tags": ANY,
}
_TRAINING = {
    "AlgorithmSpecification": {
        "TrainingImage": ANY,
        "TrainingInputMode": {"File"},
        "MetricDefinitions": ANY,
        "ContainerEntrypoint": ANY,
        "ContainerArguments": ANY,
    },
    "InputDataConfig": [
        {
            "ChannelName": ANY,
            "InputMode": {"File", "FastFile"},
            "ContentType": ANY,
            "CompressionType": {"None"},
            "DataSource": {
                "S3DataSource": {
                    "S3DataType": {"S3Prefix"},
                    "S3Uri": ANY,
                    "S3DataDistributionType": {"FullyReplicated"},
                }
            },
        }
    ],
    "ResourceConfig": {
        "InstanceType": ANY,
        "InstanceCount": {1},
        "VolumeSizeInGB": ANY,
        "VolumeKmsKeyId": ANY,
        "KeepAlivePeriodInSeconds": ANY,
    },
    "HyperParameters": ANY,
    "OutputDataConfig": {"S3OutputPath": ANY, "KmsKeyId": ANY},
    "CheckpointConfig": ANY,
    "StoppingCondition": ANY,
    "Environment": ANY,
    "RoleArn": ANY,
    "Tags": ANY,
    "VpcConfig": ANY,
    "EnableNetworkIsolation": ANY,
    "EnableInterContainerTrafficEncryption": ANY,
    "EnableManagedSpotTraining": ANY,
}
_TUNING = {
    "HyperParameterTuningJobConfig": {
        "Strategy": {"Bayesian", "Random"},
        "HyperParameterTuningJobObjective": ANY,
        # The number of parallel jobs is ignored: here one training job runs at a time.
        "ResourceLimits": {"MaxNumberOfTrainingJobs": ANY, "MaxParallelTrainingJobs": ANY},
        "ParameterRanges": {
            "IntegerParameterRanges": [
                {"Name": ANY, "MinValue": ANY, "MaxValue": ANY, "ScalingType": {"Linear", "Auto"}}
            ],
            "ContinuousParameterRanges": [
                {"Name": ANY, "MinValue": ANY, "MaxValue": ANY, "ScalingType": {"Linear", "Logarithmic"}}
            ],
            "CategoricalParameterRanges": ANY,
        },
        "TrainingJobEarlyStoppingType": {"Off"},
        "RandomSeed": ANY,
    },
    "TrainingJobDefinition": {
        **{
            key: value for key, value in _TRAINING.items() if key not in ("HyperParameters", "CheckpointConfig", "Tags")
        },
        "StaticHyperParameters": ANY,
        # It repeats jobs after internal errors of SageMaker, which do not exist here.
        "RetryStrategy": ANY,
    },
    "Tags": ANY,
}
_TRANSFORM = {
    "ModelName": ANY,
    "TransformInput": {
        "DataSource": {"S3DataSource": {"S3DataType": {"S3Prefix"}, "S3Uri": ANY}},
        "ContentType": ANY,
        "SplitType": {"None"},
    },
    "TransformOutput": {"S3OutputPath": ANY, "Accept": ANY, "AssembleWith": {"Line"}, "KmsKeyId": ANY},
    "TransformResources": ANY,
    "BatchStrategy": {"SingleRecord"},
    "MaxConcurrentTransforms": ANY,
    "MaxPayloadInMB": ANY,
    "ModelClientConfig": ANY,
    "Environment": ANY,
    "Tags": ANY,
}
_MODEL = {
    "PrimaryContainer": {"Image": ANY, "ModelDataUrl": ANY, "Environment": ANY},
    "ExecutionRoleArn": ANY,
    "EnableNetworkIsolation": ANY,
    "VpcConfig": ANY,
    "Tags": ANY,
}
_ENDPOINT_CONFIG = {
    "EndpointConfigName": ANY,
    "KmsKeyId": ANY,
    "Tags": ANY,
    "AsyncInferenceConfig": {
        "ClientConfig": {"MaxConcurrentInvocationsPerInstance": ANY},
        "OutputConfig": {"S3OutputPath": ANY, "S3FailurePath": ANY, "NotificationConfig": ANY, "KmsKeyId": ANY},
    },
    "ProductionVariants": [
        {
            "VariantName": ANY,
            "ModelName": ANY,
            "InstanceType": ANY,
            "InitialInstanceCount": ANY,
            "InitialVariantWeight": ANY,
            "ServerlessConfig": ANY,
        }
    ],
    # Ignored: data capture stores requests on S3, and requests to a local endpoint never leave the machine.
    "DataCaptureConfig": ANY,
}
MEMBERS: Mapping[str, Any] = {
    "Processing": _PROCESSING,
    "Training": _TRAINING,
    "Tuning": _TUNING,
    "Transform": _TRANSFORM,
    "Model": _MODEL,
    "EndpointConfig": _ENDPOINT_CONFIG,
    "RegisterModel": ANY,
    # DeploymentConfig is ignored: each run creates its endpoint anew, so there is no update to roll back.
    "Endpoint": {"EndpointName": ANY, "EndpointConfigName": ANY, "Tags": ANY, "DeploymentConfig": ANY},
    "Fail": {"ErrorMessage": ANY},
    "Condition": {"Conditions": ANY, "IfSteps": ANY, "ElseSteps": ANY},
}
"""The supported step types."""


def all_steps(steps: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield every step of a definition, including those inside conditions."""
    for step in steps:
        yield step
        yield from all_steps(inner_steps(step))


def inner_steps(step: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the steps directly inside a condition; none for any other step."""
    return [inner for branch in BRANCHES for inner in step["Arguments"].get(branch, [])]


def own_arguments(step: Mapping[str, Any]) -> dict[str, Any]:
    """Return a step's arguments without the steps inside it."""
    return {key: value for key, value in step["Arguments"].items() if key not in BRANCHES}


def images(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the container images that a request names, by member, such as `AppSpecification.ImageUri`."""
    absent: Mapping[str, Any] = {}
    found = {".".join(path): reduce(lambda value, key: value.get(key, absent), path, request) for path in IMAGE_MEMBERS}
    return {member: image for member, image in found.items() if image is not absent}


def check(definition: Mapping[str, Any], scope: Scope) -> None:
    """Raise `ConfigError` naming the first step, member, value or reference that cannot be run here.

    `scope` holds parameters and execution variables. Members that depend on a step's result are not checked.
    """
    if definition.get("Version") != VERSION:
        raise ConfigError(f"definition version {definition.get('Version')!r} is not {VERSION}")
    steps = list(all_steps(definition["Steps"]))
    names = [step["Name"] for step in steps]
    for step in steps:
        where = f"step {step['Name']}"
        if names.count(step["Name"]) > 1:
            raise ConfigError(f"{where} occurs twice")
        if step["Type"] not in MEMBERS:
            raise ConfigError(
                f"{where}: the process backend cannot run a step of type {step['Type']}; it runs {', '.join(MEMBERS)}"
            )
        for member in step.keys() - STEP_MEMBERS:
            raise ConfigError(f"{where}: the process backend cannot run the member {member}")
        _check_members(step["Arguments"], MEMBERS[step["Type"]], f"{where}: {step['Type']}", scope)
        _check_rules(step, names, where)


def _check_members(value: Any, allowed: Any, where: str, scope: Scope) -> None:
    if allowed is ANY:
        return
    if isinstance(allowed, set):
        if not references(value) and resolve(value, scope) not in allowed:
            choices = " or ".join(str(item) for item in sorted(allowed))
            raise ConfigError(f"{where}={resolve(value, scope)} cannot be run by the process backend, only {choices}")
    elif isinstance(allowed, list):
        for item in value:
            _check_members(item, allowed[0], where, scope)
    else:
        for key, item in value.items():
            if key not in allowed:
                raise ConfigError(f"{where}.{key} cannot be run by the process backend")
            _check_members(item, allowed[key], f"{where}.{key}", scope)


def _check_rules(step: Mapping[str, Any], names: list[str], where: str) -> None:
    arguments = step["Arguments"]
    if step["Type"] == "Processing" and not arguments["AppSpecification"].get("ContainerEntrypoint"):
        # On AWS the image's own entry point would run; this backend starts no image, so it does not know that one.
        raise ConfigError(f"{where}: Processing.AppSpecification needs a ContainerEntrypoint; no image is run here")
    if step["Type"] == "Condition":
        for kind in (kind for item in arguments["Conditions"] for kind in condition_kinds(item)):
            if kind not in {*CONDITIONS, "In", "Not", "Or"}:
                raise ConfigError(f"{where}: the process backend cannot run the condition {kind}")
    own = own_arguments(step)
    for name in [*references(own), *step.get("DependsOn", [])]:
        if name not in names:
            raise ConfigError(f"{where} refers to {name!r}, which is not a step of this definition")
    for reference in all_references(own):
        if not reference.startswith(("Steps.", "Parameters.", "Execution.")):
            raise ConfigError(f"{where}: reference {reference!r} must begin with Parameters., Execution. or Steps.")
