"""Imports the SageMaker SDK quietly, and provides the sessions for building a pipeline."""

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
"""Placeholder credentials for clients that must never reach AWS; explicit, so that boto3 searches for no real ones."""


def prepare_sdk(region: str) -> None:
    """Import the SageMaker SDK quietly: no telemetry, no role lookup in IAM, no search for credentials on the network.

    Environment variables that are already set keep their values.
    """
    # The import creates a boto3 client, which needs a region.
    os.environ.setdefault("AWS_DEFAULT_REGION", os.environ.get("AWS_REGION") or region)
    os.environ.setdefault("SAGEMAKER_VALIDATE_ROLE", "false")
    # The SDK makes the root logger verbose, and botocore would log where it found each credential.
    for name in ("sagemaker", "sagemaker.config", "botocore", "boto3"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with quiet_sdk():
        import sagemaker.mlops.workflow.pipeline  # noqa: F401
        from sagemaker.core.telemetry import telemetry_logging
        from sagemaker.mlops.workflow import steps
    # For each processing step, the SDK creates a local client with a session only to read the name of a method. One
    # cached client makes compiling much faster.
    if not hasattr(steps.LocalSagemakerClient, "cache_info"):
        steps.LocalSagemakerClient = cache(steps.LocalSagemakerClient)
    telemetry_logging._send_telemetry_request = lambda *arguments, **named: None


@contextmanager
def quiet_sdk() -> Iterator[None]:
    """Suppress the SDK's warning at each step that no job is started, and its network requests for credentials.

    At its import and for each processing step, the SDK creates clients from its own sessions. On a machine without
    credentials, each of them would query the instance metadata service and wait for a timeout.
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
    """Return a `PipelineSession` for building: it has placeholder credentials and makes no call.

    Sessions are reused for the same region, bucket and prefix, since creating their clients takes most of the
    compilation time. A session keeps no state of a pipeline.
    """
    key = (region_of(config), config.storage.bucket, config.storage.prefix)
    if key not in _SESSIONS:
        _SESSIONS[key] = _pipeline_session(config, boto3.Session(region_name=region_of(config), **OFFLINE))
    return _SESSIONS[key]


_SESSIONS: dict[tuple[str, str, str], Any] = {}


def aws_session(config: PipelineConfig) -> Any:
    """Return a `PipelineSession` on AWS, with the caller's own credentials."""
    return _pipeline_session(config, boto3.Session(region_name=region_of(config)))


def region_of(config: PipelineConfig) -> str:
    """Return the AWS region of a run: the environment's or, if it names none, the configuration's."""
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
    # Emptied after creation: the SDK's defaults on this machine must not affect the definition, and the SDK validates a
    # configuration that is not empty at each of its 240 look-ups.
    session.sagemaker_config = {}
    return session
