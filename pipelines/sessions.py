"""The SageMaker session that a pipeline is built with, and the one that talks to AWS."""

import logging
import os
import warnings
from typing import Any

import boto3

from pipelines.config import PipelineConfig

OFFLINE = {"aws_access_key_id": "offline", "aws_secret_access_key": "offline"}
"""Credentials for clients that must never reach AWS; given explicitly, so that nothing looks for real ones."""


def prepare_sdk(region: str) -> None:
    """Make the SageMaker SDK importable and quiet: a region (its import fails without one), no telemetry, no role check.

    Values that the environment already has stay.
    """
    os.environ.setdefault("AWS_DEFAULT_REGION", os.environ.get("AWS_REGION") or region)
    os.environ.setdefault("SAGEMAKER_VALIDATE_ROLE", "false")
    for name in ("sagemaker", "sagemaker.config"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sagemaker.core.telemetry import telemetry_logging
    telemetry_logging._send_telemetry_request = lambda *arguments, **named: None


def compile_session(config: PipelineConfig) -> Any:
    """Return a `PipelineSession` to build with: it has no credentials of anyone's and makes no call."""
    return _pipeline_session(config, boto3.Session(region_name=_region(config), **OFFLINE))


def aws_session(config: PipelineConfig) -> Any:
    """Return a `PipelineSession` on AWS, with the caller's own credentials."""
    return _pipeline_session(config, boto3.Session(region_name=_region(config)))


def _region(config: PipelineConfig) -> str:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or config.region


def _pipeline_session(config: PipelineConfig, boto_session: boto3.Session) -> Any:
    prepare_sdk(config.region)
    from sagemaker.core.workflow.pipeline_context import PipelineSession
    storage = config.storage
    session = PipelineSession(boto_session=boto_session, default_bucket=storage.bucket, default_bucket_prefix=storage.prefix,
                              sagemaker_config={"SchemaVersion": "1.0"})
    # Empty from here on: the machine's SDK defaults must not leak into the definition, and the SDK validates a
    # configuration that is not empty again at each of its 240 look-ups.
    session.sagemaker_config = {}
    return session
