"""The quota for a processing instance's disk, compared with the configured disk."""

from typing import Any

import pytest

from mammopipe.pipelines.config.pipeline import PipelineConfig
from mammopipe.pipelines.doctor.findings import Severity
from mammopipe.pipelines.doctor.quotas import _instances_needed, _trials, _volumes

NAME = "Size of EBS volume for a processing job instance"


@pytest.mark.parametrize(
    ("quotas", "gigabytes", "verdicts"),
    [
        ({NAME: 1024.0}, 1024, [Severity.GOOD]),
        ({NAME: 1024.0}, 1025, [Severity.BLOCKS]),
        ({"ml.m5.large for processing job usage": 4.0}, 1025, [Severity.WARNING]),
        ({}, 1024, []),
    ],
)
def test_a_disk_over_its_quota_blocks(quotas: dict[str, float], gigabytes: int, verdicts: list[Severity]) -> None:
    config = PipelineConfig.load(compute={"processing_volume_gb": gigabytes})
    assert [finding.verdict for finding in _volumes(config, quotas)] == verdicts


@pytest.mark.parametrize(
    ("compute", "name"),
    [
        ({"training_instance_type": "ml.p3.2xlarge"}, "Size of EBS volume for a training job instance"),
        (
            {"training_instance_type": "ml.p3.2xlarge", "spot": True},
            "Size of EBS volume for a spot training job instance",
        ),
        ({"training_instance_type": "ml.g5.48xlarge"}, ""),
    ],
)
def test_a_training_disk_has_its_quota_too_unless_the_instance_brings_its_own(
    compute: dict[str, Any], name: str
) -> None:
    config = PipelineConfig.load(compute={**compute, "training_volume_gb": 2000}, training={"batch_size": 8})
    kinds = ("training job", "spot training job")
    quotas = {f"Size of EBS volume for a {kind} instance": 1024.0 for kind in kinds}
    found = [(finding.verdict, finding.subject) for finding in _volumes(config, quotas)]
    assert found == ([(Severity.BLOCKS, name)] if name else [])


def test_a_search_and_a_transform_need_their_instances() -> None:
    config = PipelineConfig.load(
        cnns=["alexnet", "resnet50"],
        tuning={"ranges": {"dropout": "uniform(0,0.5)"}, "cnns": ["alexnet"], "parallel": 4},
        transform={"input": "s3://a/b", "instance_count": 3},
    )
    needed = _instances_needed(config)
    assert needed["ml.g4dn.xlarge for training job usage"] == (1, 5)
    assert needed["ml.m5.xlarge for transform job usage"] == (3, 3)


TRIALS = "Maximum number of parallel training jobs per hyperparameter tuning job"


@pytest.mark.parametrize(
    ("quotas", "parallel", "verdicts"),
    [
        ({TRIALS: 20.0}, 20, []),
        ({TRIALS: 20.0}, 21, [Severity.BLOCKS]),
        ({}, 10, []),
        ({}, 11, [Severity.WARNING]),
    ],
)
def test_more_trials_at_a_time_than_the_quota_block(
    quotas: dict[str, float], parallel: int, verdicts: list[Severity]
) -> None:
    tuning = {"ranges": {"dropout": "uniform(0,0.5)"}, "trials": 50, "parallel": parallel}
    config = PipelineConfig.load(cnns=["alexnet"], tuning=tuning)
    assert [finding.verdict for finding in _trials(config, quotas)] == verdicts
    assert not [*_trials(config.replace(tuning=config.tuning.replace(ranges={})), quotas)], "no search"
