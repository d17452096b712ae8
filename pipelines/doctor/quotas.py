"""Checks the account's service quotas: concurrent instances by kind of job, disk of an instance, trials of a search."""

import re
from collections.abc import Iterator, Mapping

from mammopipe.pipelines.config.compute import has_local_disks
from mammopipe.pipelines.config.endpoint import EndpointMode
from mammopipe.pipelines.config.pipeline import PipelineConfig
from mammopipe.pipelines.doctor.findings import Account, CheckResult, Severity

VOLUME = "Size of EBS volume for a {kind} instance"
"""Name of the quota for the disk of an instance, as in the error `ResourceLimitExceeded`."""
PARALLEL_TRIALS = re.compile(r"(?=.*(parallel|concurrent))(?=.*training jobs per)(?=.*tuning)", re.IGNORECASE)
"""Pattern of the quota for concurrent training jobs of one search; its name has changed over time."""
DEFAULT_PARALLEL_TRIALS = 10
"""Default of that quota; AWS raises it to at most 100 ("automatic-model-tuning-limits")."""
DEFAULT_VOLUME_GB = 1024
"""The default of the quota of a disk, in GB ("Amazon SageMaker AI endpoints and quotas")."""


def check_quotas(account: Account) -> Iterator[CheckResult]:
    """Compare the account's quotas with the instances and the disks that a run needs at once."""
    pages = account.client("service-quotas").get_paginator("list_service_quotas").paginate(ServiceCode="sagemaker")
    quotas = {item["QuotaName"]: item["Value"] for page in pages for item in page["Quotas"]}
    yield from _volumes(account.config, quotas)
    yield from _trials(account.config, quotas)
    # Below `least`, no job of that kind can start; below `most`, jobs wait for each other.
    for quota, (least, most) in _instances_needed(account.config).items():
        value = quotas.get(quota)
        if value is None:
            text = f"no quota of that name in {account.session.region_name}; is the instance type offered there?"
            yield CheckResult(Severity.WARNING, quota, text)
        elif value < least:
            text = f"quota {value:.0f}, needed {least}; request more in Service Quotas, or use another instance type"
            yield CheckResult(Severity.BLOCKS, quota, text)
        elif value < most:
            text = f"quota {value:.0f}, {most} at once; the candidates would wait for each other, so request {most}"
            yield CheckResult(Severity.WARNING, quota, text)
        else:
            yield CheckResult(Severity.GOOD, quota, f"{most} of {value:.0f}")


def _volumes(config: PipelineConfig, quotas: Mapping[str, float]) -> Iterator[CheckResult]:
    """Compare the disk of one instance of each kind of job with its quota, which is adjustable."""
    compute = config.compute
    kind = "spot training job" if compute.spot else "training job"
    wanted = {
        "processing job": (compute.processing_instance_type, "processing_volume_gb", compute.processing_volume_gb),
        kind: (compute.training_instance_type, "training_volume_gb", compute.training_volume_gb),
    }
    for job, (instance_type, key, size) in wanted.items():
        if has_local_disks(instance_type):  # no volume is attached
            continue
        name = VOLUME.format(kind=job)
        quota = quotas.get(name)
        if quota is None and size > DEFAULT_VOLUME_GB:
            text = (
                f"not listed for this account; compute.{key}={size} is above the default of {DEFAULT_VOLUME_GB} GB: "
                "look the quota up in Service Quotas"
            )
            yield CheckResult(Severity.WARNING, name, text)
        elif quota is not None and quota < size:
            text = f"quota {quota:.0f} GB, compute.{key} is {size}; request more in Service Quotas"
            yield CheckResult(Severity.BLOCKS, name, text)
        elif quota is not None:
            yield CheckResult(Severity.GOOD, name, f"{size} of {quota:.0f} GB")


def _trials(config: PipelineConfig, quotas: Mapping[str, float]) -> Iterator[CheckResult]:
    """Compare the training jobs that a search runs at a time with their quota; AWS refuses a search above it."""
    wanted = config.tuning.parallel
    if not config.tuning.ranges:
        return
    found = next((name for name in quotas if PARALLEL_TRIALS.search(name)), "")
    most = quotas.get(found, DEFAULT_PARALLEL_TRIALS)
    if wanted > most:
        text = f"tuning.parallel={wanted} is above {most:.0f}; request more in Service Quotas, or lower it"
        subject = found or "training jobs of a search at a time"
        yield CheckResult(Severity.BLOCKS if found else Severity.WARNING, subject, text)


def _instances_needed(config: PipelineConfig) -> dict[str, tuple[int, int]]:
    """Return, by quota name, the number of instances that a run needs, and the number with which no job waits."""
    compute, endpoint = config.compute, config.endpoint
    kind = "spot training job" if compute.spot else "training job"
    each, folds = compute.training_instance_count, max(1, len(config.fold_jobs))
    jobs = sum(config.tuning.parallel if config.tuning.tunes(cnn) else folds for cnn in config.cnns)
    together = min(jobs, compute.training_jobs or jobs)
    needed = {
        f"{compute.processing_instance_type} for processing job usage": (compute.processing_instance_count,) * 2,
        f"{compute.training_instance_type} for {kind} usage": (each, each * together),
    }
    if compute.keep_alive_seconds:
        needed[f"{compute.training_instance_type} for training warm pool usage"] = (each, each * together)
    if config.transform.input:
        count = config.transform.instance_count
        needed[f"{config.transform.instance_type} for transform job usage"] = (count, count)
    if config.deploy and endpoint.mode is not EndpointMode.SERVERLESS:
        count = endpoint.instance_count * len(endpoint.names)
        # The candidate's and the clinic's endpoint run at the same time; during an update, old and new instances do.
        needed[f"{endpoint.instance_type} for endpoint usage"] = (2 * count, 3 * count)
    return needed
