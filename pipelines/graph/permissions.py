"""The permissions that a compiled definition needs: those of the pipeline's own role and of each job's role.

`mammopipe doctor --aws` checks them through IAM (`iam:SimulatePrincipalPolicy`); the tests check the stack's policies.
Sources: "How to use SageMaker AI execution roles" (permissions of CreateProcessingJob, CreateTrainingJob and
CreateModel) and the Service Authorization Reference.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mammopipe.pipelines.backends.supported import all_steps
from mammopipe.pipelines.config.pipeline import PipelineConfig
from mammopipe.pipelines.config.security import Duty
from mammopipe.pipelines.graph.requests import TUNING_JOB, Asked, requests

IMAGE = re.compile(
    r"(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(\.cn)?/(?P<repository>[^:@]+)([:@].+)?"
)
PULL = ("ecr:BatchCheckLayerAvailability", "ecr:GetDownloadUrlForLayer", "ecr:BatchGetImage")
INTERFACES = (
    "ec2:CreateNetworkInterfacePermission",
    "ec2:DeleteNetworkInterface",
    "ec2:DeleteNetworkInterfacePermission",
)
LOOKS = (
    "ec2:DescribeDhcpOptions",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSecurityGroups",
    "ec2:DescribeSubnets",
    "ec2:DescribeVpcs",
)
RESOURCES: Mapping[str, tuple[str, ...]] = {
    "Processing": ("processing-job/pipelines-abcdefghijkl-step",),
    "Training": ("training-job/pipelines-abcdefghijkl-step",),
    "Tuning": (f"hyper-parameter-tuning-job/{TUNING_JOB}",),
    "Transform": ("transform-job/pipelines-abcdefghijkl-step",),
    "Model": ("model/pipelines-abcdefghijkl-step",),
}
"""The resources that a step's call creates, relative to the account; SageMaker Pipelines generates the names."""
VERBS: Mapping[str, tuple[str, ...]] = {
    "Processing": ("CreateProcessingJob", "DescribeProcessingJob", "StopProcessingJob", "AddTags"),
    "Training": ("CreateTrainingJob", "DescribeTrainingJob", "StopTrainingJob", "AddTags"),
    "Tuning": (
        "CreateHyperParameterTuningJob",
        "DescribeHyperParameterTuningJob",
        "ListTrainingJobsForHyperParameterTuningJob",
        "StopHyperParameterTuningJob",
        "AddTags",
    ),
    "Transform": ("CreateTransformJob", "DescribeTransformJob", "StopTransformJob", "AddTags"),
    "Model": ("CreateModel", "DescribeModel", "AddTags"),
    "EndpointConfig": ("CreateEndpointConfig", "DescribeEndpointConfig", "AddTags"),
    "Endpoint": ("CreateEndpoint", "UpdateEndpoint", "DescribeEndpoint", "AddTags"),
    "RegisterModel": ("CreateModelPackage", "DescribeModelPackage", "AddTags"),
}
"""The actions of SageMaker Pipelines for a step, under the pipeline's role."""


@dataclass(frozen=True)
class Need:
    """One permission that a role needs."""

    role: str
    """ARN of the role."""
    action: str
    resource: str
    why: str
    """The step that needs it."""
    context: Mapping[str, str] = field(default_factory=dict)
    """Condition keys and their values."""


@dataclass(frozen=True)
class AccountAndRegion:
    """The account and region of the resources."""

    account: str
    region: str
    partition: str = "aws"

    def arn(self, service: str, resource: str) -> str:
        """Return the ARN of a resource."""
        return f"arn:{self.partition}:{service}:{self.region}:{self.account}:{resource}"


def needed(
    config: PipelineConfig, definition: Mapping[str, Any], parameters: Mapping[str, Any], place: AccountAndRegion
) -> Iterator[Need]:
    """Yield the permissions that the roles of a definition need; some are repeated.

    Args:
        config: The configuration that the definition was compiled from.
        definition: The compiled definition.
        parameters: The run's value of each parameter.
        place: The account and region of the run.

    Yields:
        Each permission.
    """
    asked = list(requests(definition, parameters))
    files = {step["Name"] for step in all_steps(list(definition["Steps"])) if step.get("PropertyFiles")}
    for item in asked:
        yield from _of_pipeline(config, item, place)
        yield from _of_job(item, place)
        if item.kind == "Transform":
            yield from _of_transform(config.security.role_for(Duty.SERVING), item, place)
        if item.step in files:
            for output in item.request["ProcessingOutputConfig"]["Outputs"]:
                if output["OutputName"] == "evaluation":
                    yield Need(
                        config.security.role, "s3:GetObject", _object(output["S3Output"]["S3Uri"], place), item.step
                    )
    key = config.security.kms_key
    if key.startswith("arn:"):
        for role in {need_role for item in asked for need_role in _roles(item)} | {config.security.role}:
            for action in ("kms:Decrypt", "kms:GenerateDataKey", "kms:DescribeKey"):
                yield Need(role, action, key, "encryption")
            yield Need(role, "kms:CreateGrant", key, "encryption of volumes", {"kms:GrantIsForAWSResource": "true"})


def _roles(item: Asked) -> list[str]:
    roles = [item.request.get("RoleArn"), item.request.get("ExecutionRoleArn")]
    roles.append(item.request.get("TrainingJobDefinition", {}).get("RoleArn"))
    return [role for role in roles if role]


def _of_pipeline(config: PipelineConfig, item: Asked, place: AccountAndRegion) -> Iterator[Need]:
    resources = RESOURCES.get(item.kind) or _named(item)
    for resource in resources:
        kind = resource.partition("/")[0]
        for verb in VERBS[item.kind]:
            # Creating or updating an endpoint also needs its configuration; no other action is performed on that.
            if (
                item.kind == "Endpoint"
                and kind == "endpoint-config"
                and verb not in ("CreateEndpoint", "UpdateEndpoint")
            ):
                continue
            yield Need(config.security.role, f"sagemaker:{verb}", place.arn("sagemaker", resource), item.step)
    service = {"iam:PassedToService": "sagemaker.amazonaws.com"}
    for role in _roles(item):
        yield Need(config.security.role, "iam:PassRole", role, item.step, service)


def _named(item: Asked) -> tuple[str, ...]:
    """Return the resources of a step that its request names."""
    request = item.request
    if item.kind == "EndpointConfig":
        return (f"endpoint-config/{request['EndpointConfigName'].lower()}-suffix",)
    if item.kind == "Endpoint":
        name = request["EndpointName"].lower()
        return (f"endpoint/{name}", f"endpoint-config/{name.removesuffix('-async')}-abcdefghijkl")
    return (f"model-package/{request['ModelPackageGroupName']}/1",)


def _of_job(item: Asked, place: AccountAndRegion) -> Iterator[Need]:
    """Yield the permissions that a container's own role needs."""
    request = item.request.get("TrainingJobDefinition", item.request)
    for role in _roles(item):
        for image in _images(item.request):
            yield from _pull(role, image, item.step)
        for action in ("logs:CreateLogGroup", "logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"):
            yield Need(role, action, place.arn("logs", "log-group:/aws/sagemaker/Jobs:log-stream:a"), item.step)
        namespace = {"cloudwatch:namespace": "/aws/sagemaker/Jobs"}
        yield Need(role, "cloudwatch:PutMetricData", "*", item.step, namespace)
        for uri in _read(item.kind, request):
            yield Need(role, "s3:GetObject", _object(uri, place), item.step)
            bucket, _, prefix = uri.removeprefix("s3://").partition("/")
            yield Need(role, "s3:ListBucket", f"arn:{place.partition}:s3:::{bucket}", item.step, {"s3:prefix": prefix})
        for uri in _written(request):
            yield Need(role, "s3:PutObject", _object(uri, place), item.step)
        walls = request.get("NetworkConfig", request).get("VpcConfig")
        if walls:
            yield from _interfaces(role, walls, item.step, place)


def _of_transform(role: str, item: Asked, place: AccountAndRegion) -> Iterator[Need]:
    """Yield what the model's role needs for a transform job: its inputs and its answers."""
    source = item.request["TransformInput"]["DataSource"]["S3DataSource"]["S3Uri"]
    bucket, _, prefix = source.removeprefix("s3://").partition("/")
    yield Need(role, "s3:GetObject", _object(source, place), item.step)
    yield Need(role, "s3:ListBucket", f"arn:{place.partition}:s3:::{bucket}", item.step, {"s3:prefix": prefix})
    yield Need(role, "s3:PutObject", _object(item.request["TransformOutput"]["S3OutputPath"], place), item.step)


def _images(request: Mapping[str, Any]) -> list[str]:
    found = [
        request.get("AppSpecification", {}).get("ImageUri"),
        request.get("AlgorithmSpecification", {}).get("TrainingImage"),
        request.get("TrainingJobDefinition", {}).get("AlgorithmSpecification", {}).get("TrainingImage"),
        request.get("PrimaryContainer", {}).get("Image"),
    ]
    return [image for image in found if image]


def _pull(role: str, image: str, step: str) -> Iterator[Need]:
    match = IMAGE.fullmatch(image)
    if match is None:
        return
    yield Need(role, "ecr:GetAuthorizationToken", "*", step)
    for action in PULL:
        arn = f"arn:aws:ecr:{match['region']}:{match['account']}:repository/{match['repository']}"
        yield Need(role, action, arn, step)


def _read(kind: str, request: Mapping[str, Any]) -> Iterator[str]:
    for item in request.get("ProcessingInputs", []):
        yield item["S3Input"]["S3Uri"]
    for item in request.get("InputDataConfig", []):
        yield item["DataSource"]["S3DataSource"]["S3Uri"]
    if "CheckpointConfig" in request:
        yield request["CheckpointConfig"]["S3Uri"]
    if kind == "Model":
        yield request["PrimaryContainer"]["ModelDataUrl"]


def _written(request: Mapping[str, Any]) -> Iterator[str]:
    for item in request.get("ProcessingOutputConfig", {}).get("Outputs", []):
        yield item["S3Output"]["S3Uri"]
    if "OutputDataConfig" in request:
        yield request["OutputDataConfig"]["S3OutputPath"]
    if "CheckpointConfig" in request:
        yield request["CheckpointConfig"]["S3Uri"]


def _object(uri: str, place: AccountAndRegion) -> str:
    """Return the ARN of the objects at or below an S3 URI."""
    key = uri.removeprefix("s3://").rstrip("/")
    return f"arn:{place.partition}:s3:::{key}" + ("" if "." in key.rpartition("/")[2] else "/file")


def _interfaces(role: str, walls: Mapping[str, Any], step: str, place: AccountAndRegion) -> Iterator[Need]:
    resources = [
        "network-interface/eni-1",
        *(f"subnet/{subnet}" for subnet in walls["Subnets"]),
        *(f"security-group/{group}" for group in walls["SecurityGroupIds"]),
    ]
    for resource in resources:
        yield Need(role, "ec2:CreateNetworkInterface", place.arn("ec2", resource), step)
    for action in INTERFACES:
        yield Need(role, action, place.arn("ec2", "network-interface/eni-1"), step)
    for action in LOOKS:
        yield Need(role, action, "*", step)
