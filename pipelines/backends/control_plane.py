"""The steps of a local run that start no job: package, model, endpoint configuration, endpoint.

Each request goes through a boto3 client to the SageMaker API of an emulator; the responses are the steps' properties.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

Request = Mapping[str, Any]


def register(sagemaker: Any, request: Request) -> Request:
    """Create a model package, and its group if it does not exist."""
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
    """The model and settings that an endpoint serves."""

    container: Mapping[str, Any]
    """The model's container: image, artefact, environment."""
    async_config: Mapping[str, Any] | None
    """The configuration's `AsyncInferenceConfig`, if it has one."""


def find_endpoint(sagemaker: Any, name: str) -> Request | None:
    """Return the description of an endpoint, or None if there is none with this name."""
    try:
        found: Request = sagemaker.describe_endpoint(EndpointName=name)
    except ClientError as error:
        # SageMaker has no separate error code for a name that does not exist.
        if "Could not find" not in error.response["Error"].get("Message", ""):
            raise
        return None
    return found


def create_endpoint(sagemaker: Any, request: Request) -> Served:
    """Create an endpoint, replacing one of the same name from an earlier run, and return what it serves.

    The endpoint step of a pipeline on AWS uses UpdateEndpoint instead, which the emulator does not have.
    """
    name = request["EndpointName"]
    if find_endpoint(sagemaker, name) is not None:
        sagemaker.delete_endpoint(EndpointName=name)
    sagemaker.create_endpoint(**request)
    settings = sagemaker.describe_endpoint_config(EndpointConfigName=request["EndpointConfigName"])
    model = sagemaker.describe_model(ModelName=settings["ProductionVariants"][0]["ModelName"])
    return Served(model["PrimaryContainer"], settings.get("AsyncInferenceConfig"))
