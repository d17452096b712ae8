"""Finds the endpoint configurations and models of earlier deployments that no endpoint uses any more.

Each run, approval and `mammopipe deploy` creates a configuration and a model. SageMaker keeps both when the endpoint is
deleted (API reference, DeleteEndpoint).
"""

import re
from collections.abc import Mapping
from typing import Any

from mammopipe.pipelines.config.endpoint import CANDIDATE_SUFFIX, EndpointMode
from mammopipe.pipelines.config.pipeline import PipelineConfig
from mammopipe.pipelines.runs.aws_rollout import mode_of


def is_ours(config: PipelineConfig, sagemaker: Any, arn: str) -> bool:
    """Return whether a resource has the configuration's tags."""
    tags = {item["Key"]: item["Value"] for item in sagemaker.list_tags(ResourceArn=arn)["Tags"]}
    return bool(config.tags) and config.tags.items() <= tags.items()


def find(
    config: PipelineConfig, sagemaker: Any, *, candidate: bool, mode: EndpointMode | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the configurations and models that no endpoint uses and that have the configuration's tags.

    Args:
        config: The configuration.
        sagemaker: A boto3 client of SageMaker.
        candidate: Whether to look for those of the runs' candidate endpoint, or of the endpoint that a clinic calls.
        mode: How the endpoint serves. In mode `both`, two endpoints share the beginning of their names. None: any.

    Returns:
        The names of the configurations and of the models.
    """
    pattern, base = _names(config, candidate=candidate), config.endpoint.name
    served = _served(sagemaker, base)
    found, kept = [], set()
    models: list[str] = []
    for item in _pages(sagemaker, "list_endpoint_configs", "EndpointConfigs", base):
        name = item["EndpointConfigName"]
        settings = sagemaker.describe_endpoint_config(EndpointConfigName=name)
        used = [variant["ModelName"] for variant in settings["ProductionVariants"]]
        unused = pattern.fullmatch(name) and name not in served and mode in (None, mode_of(settings))
        if unused and is_ours(config, sagemaker, item["EndpointConfigArn"]):
            found.append(name)
            models += used
        else:
            kept |= {*used}
    # A deployment that failed halfway leaves a model without a configuration.
    models += [item["ModelName"] for item in _pages(sagemaker, "list_models", "Models", f"{base}-")
               if pattern.fullmatch(item["ModelName"])]  # fmt: skip
    ours = [
        name
        for name in dict.fromkeys(models)
        if name not in kept and is_ours(config, sagemaker, sagemaker.describe_model(ModelName=name)["ModelArn"])
    ]
    return tuple(found), tuple(ours)


def _names(config: PipelineConfig, *, candidate: bool) -> re.Pattern[str]:
    """Return the pattern of deployments' names: they end in a run's id, or in a package's version and a digest."""
    base = re.escape(config.endpoint.name)
    if candidate:
        return re.compile(rf"{base}{CANDIDATE_SUFFIX}(-a)?-[a-z0-9]{{12}}(-.+)?")
    return re.compile(rf"{base}(-a)?-\d+-([0-9a-f]{{8}}|[0-9a-f]{{32}})")


def _served(sagemaker: Any, base: str) -> set[str]:
    """Return the configurations that endpoints with such names use, or are being updated to."""
    names = set()
    for item in _pages(sagemaker, "list_endpoints", "Endpoints", base):
        endpoint: Mapping[str, Any] = sagemaker.describe_endpoint(EndpointName=item["EndpointName"])
        pending = endpoint.get("PendingDeploymentSummary", {}).get("EndpointConfigName")
        names |= {endpoint.get("EndpointConfigName"), pending}
    return names - {None}


def _pages(sagemaker: Any, call: str, member: str, base: str) -> list[Mapping[str, Any]]:
    pages = sagemaker.get_paginator(call).paginate(NameContains=base)
    return [item for page in pages for item in page[member]]
