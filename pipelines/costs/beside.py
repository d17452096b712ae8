"""Estimates the costs beside a run's steps: the endpoint, the storage and the VPC's interface endpoints."""

from mammopipe.pipelines.config.pipeline import PipelineConfig
from mammopipe.pipelines.costs.prices import Prices, Throughput

HOURS_A_MONTH = 730
INTERFACES = ("ecr.api", "ecr.dkr", "kms", "logs", "monitoring", "sagemaker.api", "sagemaker.runtime", "sts")
"""The AWS services that the stack's network reaches through an interface endpoint; S3 has a gateway, which is free."""


def serving(config: PipelineConfig, prices: Prices, throughput: Throughput, images: int) -> list[tuple[str, float]]:
    """Return the costs beside the steps: the idle endpoint, all images sent through it, their storage for a month."""
    endpoint, answer = config.endpoint, throughput.of("answer")
    price = prices.hour("hosting", endpoint.instance_type)
    cores, _ = throughput.cores(endpoint.instance_type, trains=False)
    hours = images * answer.core_seconds / cores / 3600
    dataset = throughput.size(str(config.dataset))
    gigabytes = images / dataset.images * dataset.gigabytes
    return [
        (
            f"endpoint at rest, {endpoint.instance_count} x {endpoint.instance_type}, a month",
            price * HOURS_A_MONTH * endpoint.instance_count,
        ),
        (f"all images through it once, {hours:.1f} instance hours", price * hours),
        (f"{gigabytes:,.0f} GB of raw files on S3, a month", gigabytes * prices.storage.s3_gb_month),
        *_interfaces(config, prices, gigabytes),
    ]


def _interfaces(config: PipelineConfig, prices: Prices, gigabytes: float) -> list[tuple[str, float]]:
    """Return the costs of the VPC's interface endpoints, which are billed per zone and hour, and per GB.

    Each subnet counts as a zone of its own, like the subnets that the stack creates. Mammograms and container images
    use the free gateway to S3. Only requests to the endpoint from inside the VPC send much data through an interface.
    """
    zones, network = len(config.security.subnets), prices.network
    if not zones:
        return []
    hours = zones * len(INTERFACES) * HOURS_A_MONTH
    return [
        (
            f"{len(INTERFACES)} interface endpoints of the VPC in {zones} zones, if they are the stack's, a month",
            hours * network.interface_zone_hour,
        ),
        (f"{gigabytes:,.0f} GB of requests through one of them", gigabytes * network.interface_gb),
    ]
