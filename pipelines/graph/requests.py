"""Resolves a compiled definition into the requests that AWS would receive.

A reference to another step's result becomes the location in that step's request, or a sample value of the shape in the
service's model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import botocore.session

from mammopipe.pipelines.backends.expressions import Scope, resolve
from mammopipe.pipelines.backends.supported import all_steps

ACCOUNT = "123456789012"
EXECUTION = {
    "PipelineExecutionId": "abcdefghijkl",
    "PipelineExecutionArn": f"arn:aws:sagemaker:us-east-1:{ACCOUNT}:pipeline/name/execution/abcdefghijkl",
    "PipelineName": "name",
    "PipelineArn": f"arn:aws:sagemaker:us-east-1:{ACCOUNT}:pipeline/name",
    "StartDateTime": "2026-01-01T00:00:00Z",
    "CurrentDateTime": "2026-01-01T00:00:00Z",
}
"""Sample values of the execution variables, with the lengths of AWS's own values."""


TUNING_JOB = "abcdefghijkl-Tune-a-ABCDEFGHIJ"
"""Sample name of a search; SageMaker allows 32 characters, fewer than in the names of other jobs."""


@dataclass(frozen=True)
class Call:
    """The SageMaker call of a step."""

    operation: str
    names: Mapping[str, str]
    """The members with names that SageMaker Pipelines adds, and sample values."""
    described: str
    """The operation whose response gives the step's properties."""


CALLS: Mapping[str, Call] = {
    "Processing": Call("CreateProcessingJob", {"ProcessingJobName": "job"}, "DescribeProcessingJob"),
    "Training": Call("CreateTrainingJob", {"TrainingJobName": "job"}, "DescribeTrainingJob"),
    "Tuning": Call(
        "CreateHyperParameterTuningJob",
        {"HyperParameterTuningJobName": TUNING_JOB},
        "DescribeHyperParameterTuningJob",
    ),
    "Transform": Call("CreateTransformJob", {"TransformJobName": "job"}, "DescribeTransformJob"),
    "Model": Call("CreateModel", {"ModelName": "model"}, "DescribeModel"),
    "RegisterModel": Call("CreateModelPackage", {}, "DescribeModelPackage"),
    "EndpointConfig": Call("CreateEndpointConfig", {}, "DescribeEndpointConfig"),
    "Endpoint": Call("CreateEndpoint", {}, "DescribeEndpoint"),
}
"""The call of each step type."""


@dataclass(frozen=True)
class StepRequest:
    """The request of one step."""

    step: str
    kind: str
    operation: str
    request: dict[str, Any]


@cache
def service_model() -> Any:
    """Return botocore's model of SageMaker."""
    return botocore.session.get_session().get_service_model("sagemaker")


def requests(definition: Mapping[str, Any], parameters: Mapping[str, Any]) -> list[StepRequest]:
    """Return the request of every step that calls SageMaker, in the order of the definition.

    Args:
        definition: A compiled definition.
        parameters: The value of each of its parameters.

    Returns:
        The requests, with every reference resolved.
    """
    return resolved(definition, Scope(parameters, EXECUTION))


def resolved(definition: Mapping[str, Any], scope: Scope) -> list[StepRequest]:
    """Return the requests, and add samples of every step's properties to `scope`."""
    found = []
    for step in all_steps(list(definition["Steps"])):
        if step["Type"] not in CALLS:
            continue
        call = CALLS[step["Type"]]
        request = dict(call.names) | resolve(step["Arguments"], scope)
        found.append(StepRequest(step["Name"], step["Type"], call.operation, request))
        scope.steps[step["Name"]] = properties(step["Type"], request)
    return found


def properties(kind: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return sample values of a step's properties; result locations are those in its request."""
    made: dict[str, Any] = sample(service_model().operation_model(CALLS[kind].described).output_shape)
    job = f"pipelines-{EXECUTION['PipelineExecutionId']}-step"
    if kind == "Processing":
        outputs = request.get("ProcessingOutputConfig", {}).get("Outputs", [])
        made |= {"ProcessingJobName": job, "ProcessingOutputConfig": {"Outputs": outputs}}
    if kind == "Tuning":
        trials = service_model().operation_model("ListTrainingJobsForHyperParameterTuningJob").output_shape
        best = sample(trials.members["TrainingJobSummaries"].member) | {"TrainingJobName": f"{TUNING_JOB}-001-abcdef01"}
        made |= {"TrainingJobSummaries": [best], "TrainingJobDefinition": request["TrainingJobDefinition"]}
    if kind == "Training":
        folder = request["OutputDataConfig"]["S3OutputPath"].rstrip("/")
        made["ModelArtifacts"] = {"S3ModelArtifacts": f"{folder}/{job}/output/model.tar.gz"}
    return made


def sample(shape: Any, depth: int = 0) -> Any:
    """Return a sample value of a botocore shape: all members of a structure, empty lists and maps."""
    if shape.type_name == "structure":
        # No step refers to anything deeper.
        return {name: sample(member, depth + 1) for name, member in shape.members.items()} if depth < 5 else {}
    values: dict[str, Any] = {"list": [], "map": {}, "integer": 1, "long": 1, "float": 1.0, "boolean": True}
    return values.get(shape.type_name, f"s3://bucket/{shape.name}" if "S3" in shape.name else "a-name")
