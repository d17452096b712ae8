"""The SageMaker SDK, imported quietly, and the sessions to build a pipeline with."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import boto3

from mammopipe.pipelines.config.pipeline import PipelineConfig

OFFLINE = {"aws_access_key_id": "offline", "aws_secret_access_key": "offline"}
"""Credentials for clients that must never reach AWS; given explicitly, so that nothing looks for real ones."""


def prepare_sdk(region: str) -> None:
    """Import the SageMaker SDK quietly: no telemetry, no look at IAM roles, no search for credentials on the network.

    Values that the environment already has stay.
    """
    # Its import makes a boto3 client, which needs a region.
    os.environ.setdefault("AWS_DEFAULT_REGION", os.environ.get("AWS_REGION") or region)
    os.environ.setdefault("SAGEMAKER_VALIDATE_ROLE", "false")
    # The SDK sets the root logger to tell everything, and botocore would tell where each credential was found.
    for name in ("sagemaker", "sagemaker.config", "botocore", "boto3"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with quiet_sdk():
        import sagemaker.mlops.workflow.pipeline  # noqa: F401
        from sagemaker.core.telemetry import telemetry_logging
        from sagemaker.mlops.workflow import steps
    # Each processing step makes a local client, and a session for it, only to read the name of a method.
    if not hasattr(steps.LocalSagemakerClient, "cache_info"):
        steps.LocalSagemakerClient = cache(steps.LocalSagemakerClient)
    telemetry_logging._send_telemetry_request = lambda *arguments, **named: None


@contextmanager
def quiet_sdk() -> Iterator[None]:
    """Keep the SDK from warning at each step that no job is started, and from asking the network for credentials.

    At its import, and for each processing step, it makes clients of sessions of its own; on a machine without
    credentials each of them would ask the instance's metadata service, and wait.
    """
    services = ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI")
    saved = {name: os.environ.pop(name, None) for name in (*services, "AWS_EC2_METADATA_DISABLED")}
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        del os.environ["AWS_EC2_METADATA_DISABLED"]
        os.environ.update({name: value for name, value in saved.items() if value is not None})


def compile_session(config: PipelineConfig) -> Any:
    """Return a `PipelineSession` to build with: it has no credentials of anyone's and makes no call.

    One for each place: making its clients takes most of the time of a compilation, and it keeps nothing of a pipeline.
    """
    key = (_region(config), config.storage.bucket, config.storage.prefix)
    if key not in _SESSIONS:
        _SESSIONS[key] = _pipeline_session(config, boto3.Session(region_name=_region(config), **OFFLINE))
    return _SESSIONS[key]


_SESSIONS: dict[tuple[str, str, str], Any] = {}


def aws_session(config: PipelineConfig) -> Any:
    """Return a `PipelineSession` on AWS, with the caller's own credentials."""
    return _pipeline_session(config, boto3.Session(region_name=_region(config)))


def _region(config: PipelineConfig) -> str:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or config.region


def _pipeline_session(config: PipelineConfig, boto_session: boto3.Session) -> Any:
    prepare_sdk(config.region)
    from sagemaker.core.workflow.pipeline_context import PipelineSession

    storage = config.storage
    session = PipelineSession(
        boto_session=boto_session,
        default_bucket=storage.bucket,
        default_bucket_prefix=storage.prefix,
        sagemaker_config={"SchemaVersion": "1.0"},
    )
    # Empty from here on: the machine's SDK defaults must not leak into the definition, and the SDK validates a
    # configuration that is not empty again at each of its 240 look-ups.
    session.sagemaker_config = {}
    return session
