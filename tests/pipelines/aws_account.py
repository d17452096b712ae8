"""An account on AWS whose answers are queued, and one execution of the pipeline in it."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
from botocore.stub import ANY, Stubber

from mammopipe.pipelines.backends.step_status import Status, StepRecord
from mammopipe.pipelines.data.s3 import Storage
from mammopipe.pipelines.runs import aws_watch

REGION, ID = "eu-central-1", "abcd1234efgh"
ARN = f"arn:aws:sagemaker:{REGION}:123456789012:pipeline/mammopipe/execution/{ID}"
START = datetime(2026, 3, 1, 8, tzinfo=UTC)
JOB = "pipelines-abcd1234efgh-Train-alexnet-XyZ"
TRAIN = f"arn:aws:sagemaker:{REGION}:123456789012:training-job/{JOB}"
PREPARE = f"arn:aws:sagemaker:{REGION}:123456789012:processing-job/pipelines-{ID}-Prepare-Q"


def client(service: str) -> Any:
    return boto3.client(service, region_name=REGION, aws_access_key_id="a", aws_secret_access_key="b")


class Aws:
    """An account whose answers are queued."""

    def __init__(self, storage: Storage):
        self.clients = aws_watch.Clients(client("sagemaker"), client("logs"), storage)
        self.stub, self.logs = Stubber(self.clients.sagemaker), Stubber(self.clients.logs)
        self.stub.activate()
        self.logs.activate()

    def shows(self, status: str, *steps: dict[str, Any], reason: str = "", arn: str = ARN) -> None:
        shown = {
            "PipelineExecutionArn": arn,
            "PipelineExecutionStatus": status,
            "CreationTime": START,
            "LastModifiedTime": START + timedelta(seconds=300),
            **({"FailureReason": reason} if reason else {}),
        }
        self.stub.add_response("describe_pipeline_execution", shown, {"PipelineExecutionArn": arn})
        self.stub.add_response(
            "list_pipeline_execution_steps",
            {"PipelineExecutionSteps": list(steps)},
            {"PipelineExecutionArn": arn, "SortOrder": "Ascending"},
        )
        values = {"PipelineParameters": [{"Name": "Epochs", "Value": "3"}]}
        self.stub.add_response("list_pipeline_parameters_for_execution", values, {"PipelineExecutionArn": arn})

    def logged(self, *messages: str) -> None:
        self.logs.add_response(
            "describe_log_streams",
            {"logStreams": [{"logStreamName": f"{JOB}/algo-1"}]},
            {"logGroupName": "/aws/sagemaker/TrainingJobs", "logStreamNamePrefix": JOB},
        )
        self.logs.add_response(
            "get_log_events",
            {"events": [{"message": message} for message in messages]},
            {
                "logGroupName": "/aws/sagemaker/TrainingJobs",
                "logStreamName": f"{JOB}/algo-1",
                "limit": ANY,
                "startFromHead": False,
            },
        )


def step(name: str, status: str, seconds: float | None = None, reason: str = "", **metadata: Any) -> dict[str, Any]:
    ended = {"EndTime": START + timedelta(seconds=seconds)} if seconds is not None else {}
    return {
        "StepName": name,
        "StepStatus": status,
        "StartTime": START,
        "Metadata": metadata,
        **ended,
        **({"FailureReason": reason} if reason else {}),
    }


PREPARED = step("Prepare", "Succeeded", 61.5, ProcessingJob={"Arn": PREPARE})
TRAINING = step("Train-alexnet", "Executing", TrainingJob={"Arn": TRAIN})
FAILED = step("Train-alexnet", "Failed", 250, "ClientError: lower   the rate", TrainingJob={"Arn": TRAIN})


class Screen:
    """Hears of every change, as the live table does."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Status]] = []

    @contextmanager
    def show(self, logs: Path) -> Iterator["Screen"]:
        yield self

    def changed(self, records: list[StepRecord]) -> None:
        self.seen.append({record.name: record.status for record in records})
