"""Whether an endpoint's name is free depends on the emulator's answer."""

import boto3
import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber

from mammopipe.pipelines.backends.control_plane import create_endpoint


def test_a_name_that_cannot_be_looked_up_is_not_taken_for_a_free_one() -> None:
    sagemaker = boto3.client("sagemaker", region_name="eu-west-1")
    with Stubber(sagemaker) as stub:
        stub.add_client_error("describe_endpoint", "ThrottlingException", "Rate exceeded")
        with pytest.raises(ClientError, match="Rate exceeded"):
            create_endpoint(sagemaker, {"EndpointName": "mammopipe", "EndpointConfigName": "c"})
