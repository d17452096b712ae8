"""The steps of a local run that only the control plane sees: package, model, endpoint configuration, endpoint.

Each request goes to the SageMaker API of a boto3 client, an emulator's, and what comes back are the step's properties.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

Request = Mapping[str, Any]


def register(sagemaker: Any, request: Request) -> Request:
    """Create a model package, and its group when it is missing."""
    group = request["ModelPackageGroupName"]
    try:
        sagemaker.describe_model_package_group(ModelPackageGroupName=group)
    except ClientError:
        sagemaker.create_model_package_group(ModelPackageGroupName=group)
    return {**request, "ModelPackageArn": sagemaker.create_model_package(**request)["ModelPackageArn"]}


def create_model(sagemaker: Any, request: Request) -> Request:
    """Create a model."""
    sagemaker.create_model(**request)
    return request


def create_endpoint_config(sagemaker: Any, request: Request) -> Request:
    """Create an endpoint configuration."""
    sagemaker.create_endpoint_config(**request)
    return request


@dataclass(frozen=True)
class Served:
    """What an endpoint serves."""

    container: Mapping[str, Any]
    """The model's container: image, artefact, environment."""
    queue: Mapping[str, Any] | None
    """The configuration's `AsyncInferenceConfig`, where it has one."""


def is_missing(error: ClientError) -> bool:
    """Return whether SageMaker has nothing of the name that it was asked for; it has no error code for that."""
    return "Could not find" in error.response["Error"].get("Message", "")


def create_endpoint(sagemaker: Any, request: Request) -> Served:
    """Create an endpoint, in place of the one of that name that an earlier run left, and return what it serves.

    The emulator has no UpdateEndpoint, which is what a pipeline's endpoint step does on AWS.
    """
    name = request["EndpointName"]
    try:
        sagemaker.describe_endpoint(EndpointName=name)
    except ClientError as error:
        if not is_missing(error):
            raise
    else:
        sagemaker.delete_endpoint(EndpointName=name)
    sagemaker.create_endpoint(**request)
    settings = sagemaker.describe_endpoint_config(EndpointConfigName=request["EndpointConfigName"])
    model = sagemaker.describe_model(ModelName=settings["ProductionVariants"][0]["ModelName"])
    return Served(model["PrimaryContainer"], settings.get("AsyncInferenceConfig"))
