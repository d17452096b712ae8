"""The permissions that a compiled definition needs: those of the pipeline's own role and of each job's role.

`mammopipe doctor --aws` checks them through IAM (`iam:SimulatePrincipalPolicy`); the tests check the stack's policies.
Sources: "How to use SageMaker AI execution roles" (permissions of CreateProcessingJob, CreateTrainingJob and
CreateModel) and the Service Authorization Reference.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mammopipe.pipelines.backends.supported import all_steps, images
from mammopipe.pipelines.config.pipeline import PipelineConfig
from mammopipe.pipelines.config.security import Duty
from mammopipe.pipelines.graph.requests import TUNING_JOB, StepRequest, requests

IMAGE = re.compile(
    r"(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(\.cn)?/(?P<repository>[^:@]+)([:@].+)?"
)
PULL_ACTIONS = ("ecr:BatchCheckLayerAvailability", "ecr:GetDownloadUrlForLayer", "ecr:BatchGetImage")
INTERFACE_ACTIONS = (
    "ec2:CreateNetworkInterfacePermission",
    "ec2:DeleteNetworkInterface",
    "ec2:DeleteNetworkInterfacePermission",
)
DESCRIBE_ACTIONS = (
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
STEP_ACTIONS: Mapping[str, tuple[str, ...]] = {
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
    """The step that needs it, or the purpose."""
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
    with_property_file = {step["Name"] for step in all_steps(list(definition["Steps"])) if step.get("PropertyFiles")}
    for item in asked:
        yield from _of_pipeline(config, item, place)
        yield from _of_job(item, place)
        if item.kind == "Transform":
            yield from _of_transform(config.security.role_for(Duty.SERVING), item, place)
        if item.step in with_property_file:
            # SageMaker Pipelines itself reads the file for the gate, under the pipeline's role.
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


def _roles(item: StepRequest) -> list[str]:
    roles = [item.request.get("RoleArn"), item.request.get("ExecutionRoleArn")]
    roles.append(item.request.get("TrainingJobDefinition", {}).get("RoleArn"))
    return [role for role in roles if role]


def _of_pipeline(config: PipelineConfig, item: StepRequest, place: AccountAndRegion) -> Iterator[Need]:
    resources = RESOURCES.get(item.kind) or _named(item)
    for resource in resources:
        kind = resource.partition("/")[0]
        for action in STEP_ACTIONS[item.kind]:
            # Creating or updating an endpoint also needs its configuration; no other action is performed on that.
            changes = action in ("CreateEndpoint", "UpdateEndpoint")
            if item.kind == "Endpoint" and kind == "endpoint-config" and not changes:
                continue
            yield Need(config.security.role, f"sagemaker:{action}", place.arn("sagemaker", resource), item.step)
    service = {"iam:PassedToService": "sagemaker.amazonaws.com"}
    for role in _roles(item):
        yield Need(config.security.role, "iam:PassRole", role, item.step, service)


def _named(item: StepRequest) -> tuple[str, ...]:
    """Return the resources of a step whose names are in its request."""
    request = item.request
    # SageMaker writes names into ARNs in lower case.
    if item.kind == "EndpointConfig":
        return (f"endpoint-config/{request['EndpointConfigName'].lower()}-suffix",)
    if item.kind == "Endpoint":
        name = request["EndpointName"].lower()
        return (f"endpoint/{name}", f"endpoint-config/{name.removesuffix('-async')}-abcdefghijkl")
    return (f"model-package/{request['ModelPackageGroupName']}/1",)


def _of_job(item: StepRequest, place: AccountAndRegion) -> Iterator[Need]:
    """Yield the permissions that a container's own role needs."""
    request = item.request.get("TrainingJobDefinition", item.request)
    for role in _roles(item):
        for image in images(item.request).values():
            yield from _pull(role, image, item.step, place)
        for action in ("logs:CreateLogGroup", "logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"):
            yield Need(role, action, place.arn("logs", "log-group:/aws/sagemaker/Jobs:log-stream:a"), item.step)
        namespace = {"cloudwatch:namespace": "/aws/sagemaker/Jobs"}
        yield Need(role, "cloudwatch:PutMetricData", "*", item.step, namespace)
        for uri in _read(item.kind, request):
            yield from _reads_below(role, uri, item.step, place)
        for uri in _written(request):
            yield Need(role, "s3:PutObject", _object(uri, place), item.step)
        vpc = request.get("NetworkConfig", request).get("VpcConfig")
        if vpc:
            yield from _interfaces(role, vpc, item.step, place)


def _of_transform(role: str, item: StepRequest, place: AccountAndRegion) -> Iterator[Need]:
    """Yield what the model's role needs for a transform job: its inputs and its answers."""
    source = item.request["TransformInput"]["DataSource"]["S3DataSource"]["S3Uri"]
    yield from _reads_below(role, source, item.step, place)
    yield Need(role, "s3:PutObject", _object(item.request["TransformOutput"]["S3OutputPath"], place), item.step)


def _reads_below(role: str, uri: str, step: str, place: AccountAndRegion) -> Iterator[Need]:
    """Yield what a role needs to list and read the objects below an S3 URI."""
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    yield Need(role, "s3:GetObject", _object(uri, place), step)
    yield Need(role, "s3:ListBucket", f"arn:{place.partition}:s3:::{bucket}", step, {"s3:prefix": prefix})


def _pull(role: str, image: str, step: str, place: AccountAndRegion) -> Iterator[Need]:
    match = IMAGE.fullmatch(image)
    if match is None:
        return
    yield Need(role, "ecr:GetAuthorizationToken", "*", step)
    # The repository may be in another account or region than the run.
    repository = AccountAndRegion(match["account"], match["region"], place.partition)
    for action in PULL_ACTIONS:
        yield Need(role, action, repository.arn("ecr", f"repository/{match['repository']}"), step)


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
    """Return the ARN of an object at or below an S3 URI: a last part with a dot is a file, else a folder."""
    key = uri.removeprefix("s3://").rstrip("/")
    return f"arn:{place.partition}:s3:::{key}" + ("" if "." in key.rpartition("/")[2] else "/file")


def _interfaces(role: str, vpc: Mapping[str, Any], step: str, place: AccountAndRegion) -> Iterator[Need]:
    resources = [
        "network-interface/eni-1",
        *(f"subnet/{subnet}" for subnet in vpc["Subnets"]),
        *(f"security-group/{group}" for group in vpc["SecurityGroupIds"]),
    ]
    for resource in resources:
        yield Need(role, "ec2:CreateNetworkInterface", place.arn("ec2", resource), step)
    for action in INTERFACE_ACTIONS:
        yield Need(role, action, place.arn("ec2", "network-interface/eni-1"), step)
    # The actions ec2:Describe... support no permissions for single resources.
    for action in DESCRIBE_ACTIONS:
        yield Need(role, action, "*", step)
