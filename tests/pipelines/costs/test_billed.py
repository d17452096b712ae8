"""The cost of finished runs: what AWS billed, and the hours of this machine."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from mammopipe.pipelines import cli
from mammopipe.pipelines.costs import billed
from mammopipe.pipelines.costs.prices import Prices
from mammopipe.pipelines.runs.folder import RunFolder
from tests.pipelines.costs.test_cost import Capture, said

START = datetime(2026, 3, 1, 8, tzinfo=UTC)


def test_a_run_of_this_machine_costs_its_hours(tmp_path: Path, capsys: Capture) -> None:
    step = {"status": "Succeeded", "started": "2026-01-01T00:00:00+00:00", "reason": ""}
    steps = [
        {"name": "Prepare", "type": "Processing", "seconds": 1800.0, **step},
        {"name": "Gate", "type": "Condition", "seconds": 1.0, **step},
    ]
    RunFolder(tmp_path, "r1").write({"id": "r1", "status": "Succeeded", "reason": "", "steps": steps})
    facts = said(capsys, "r1", "--runs", str(tmp_path))
    assert [(item["step"], item["hours"], item["usd"]) for item in facts["steps"]] == [("Prepare", 0.5, 0.0)]


def test_what_aws_billed_is_read_from_the_jobs() -> None:
    client = boto3.client("sagemaker", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
    arn = "arn:aws:sagemaker:us-east-1:123456789012:training-job/t"
    steps = [
        {"name": "Train-alexnet", "type": "Training", "seconds": 900.0, "job_name": "t"},
        {"name": "Prepare", "type": "Processing", "seconds": 700.0, "job_name": "p"},
        {"name": "Gate", "type": "Condition", "seconds": 0.0, "job_name": ""},
    ]
    with Stubber(client) as stub:
        stub.add_response(
            "describe_training_job",
            {
                "TrainingJobName": "t",
                "TrainingJobArn": arn,
                "ModelArtifacts": {"S3ModelArtifacts": "s3://b/k"},
                "TrainingJobStatus": "Completed",
                "SecondaryStatus": "Completed",
                "CreationTime": START,
                "AlgorithmSpecification": {"TrainingInputMode": "File"},
                "ResourceConfig": {"InstanceType": "ml.g4dn.xlarge", "InstanceCount": 2, "VolumeSizeInGB": 50},
                "StoppingCondition": {},
                "TrainingStartTime": START,
                "BillableTimeInSeconds": 360,
                "TrainingEndTime": START + timedelta(seconds=900),
                "EnableManagedSpotTraining": True,
            },
            {"TrainingJobName": "t"},
        )
        stub.add_response(
            "describe_processing_job",
            {
                "ProcessingJobName": "p",
                "ProcessingJobArn": arn,
                "ProcessingJobStatus": "Completed",
                "CreationTime": START,
                "ProcessingStartTime": START,
                "ProcessingEndTime": START + timedelta(hours=1),
                "ProcessingResources": {
                    "ClusterConfig": {"InstanceType": "ml.m5.xlarge", "InstanceCount": 3, "VolumeSizeInGB": 50}
                },
                "AppSpecification": {"ImageUri": "i"},
            },
            {"ProcessingJobName": "p"},
        )
        lines = billed.measured({"steps": billed.billed(client, steps)}, Prices.load())
    assert [(line.step, round(line.instance_hours, 4), round(line.usd, 4)) for line in lines] == [
        ("Train-alexnet", 0.2, round(0.2 * 0.7364, 4)),
        ("Prepare", 3.0, 0.69),
    ]


def test_a_search_on_aws_is_billed_for_each_trial() -> None:
    class Client:
        def get_paginator(self, call: str) -> Any:
            assert call == "list_training_jobs_for_hyper_parameter_tuning_job"
            return self

        def paginate(self, **given: str) -> list[dict[str, Any]]:
            assert given == {"HyperParameterTuningJobName": "search"}
            return [{"TrainingJobSummaries": [{"TrainingJobName": name}]} for name in ("1", "2")]

        def describe_training_job(self, TrainingJobName: str) -> dict[str, Any]:
            resources = {"InstanceType": "ml.g4dn.xlarge", "InstanceCount": 2}
            facts = {"ResourceConfig": resources, "CreationTime": START, "TrainingStartTime": START}
            return {**facts, "BillableTimeInSeconds": 1800 * int(TrainingJobName)}

    steps = [{"name": "Tune-alexnet", "type": "Tuning", "seconds": 4000.0, "job_name": "search"}]
    (line,) = billed.measured({"steps": billed.billed(Client(), steps)}, Prices.load())
    assert (line.instance_hours, line.usd) == (3.0, pytest.approx(3 * 0.7364))


def test_a_transform_on_aws_is_billed_from_its_start_to_its_end() -> None:
    class Client:
        def describe_transform_job(self, TransformJobName: str) -> dict[str, Any]:
            assert TransformJobName == "answers"
            resources = {"InstanceType": "ml.m5.xlarge", "InstanceCount": 3}
            times = {"CreationTime": START - timedelta(hours=1), "TransformStartTime": START}
            return {"TransformResources": resources, **times, "TransformEndTime": START + timedelta(hours=2)}

    steps = [{"name": "Transform", "type": "Transform", "seconds": 9000.0, "job_name": "answers"}]
    (line,) = billed.measured({"steps": billed.billed(Client(), steps)}, Prices.load())
    assert (line.instance_hours, line.usd) == (6.0, pytest.approx(6 * 0.23))


def test_a_runs_batch_is_in_its_cost_and_an_assumed_size_is_marked(capsys: Capture, tmp_path: Path) -> None:
    config = tmp_path / "batch.toml"
    config.write_text('[transform]\ninput = "s3://bucket/batch"\ninstance_count = 2\n')
    without = said(capsys)
    assumed = said(capsys, "--config", str(config))
    stated = said(capsys, "--config", str(config), "--batch-images", "100000")
    line, other = assumed["steps"][-1], stated["steps"][-1]
    assert (line["step"], line["units"], line["measured"]) == ("Transform", without["images"], False)
    assert (other["units"], other["measured"], other["instances"]) == (100_000, True, 2)
    hours = (100_000 * 0.0565 / 4 / 2 + 180) / 3600
    assert other["hours"] == pytest.approx(hours, abs=1e-4)
    assert other["usd"] == pytest.approx(hours * 2 * 0.23, abs=1e-3)
    assert stated["hours"] == pytest.approx(without["hours"] + hours, abs=2e-3)
    assert cli.main(["cost", "--batch-images", "5"]) == 2
    assert "transform.input names no folder" in capsys.readouterr().err
