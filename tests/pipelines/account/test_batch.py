"""A batch transform with a registered package: its requests, its answers, and what it deletes."""

import json
from pathlib import Path
from typing import Any

import pytest

from mammopipe.pipelines.account import batch
from mammopipe.pipelines.backends.sessions import LocalServices
from mammopipe.pipelines.config.pipeline import PipelineConfig
from mammopipe.pipelines.graph.aws_rules import _model
from mammopipe.pipelines.graph.requests import StepRequest
from mammopipe.processing.errors import ConfigError
from tests.pipelines.compiled import CLOSED, KEY, ROLE
from tests.pipelines.conftest import BUCKET

PACKAGE = "arn:aws:sagemaker:us-east-1:123456789012:model-package/mammopipe/3"
SOURCE = f"s3://{BUCKET}/mammopipe/batch/today"
CONFIG = PipelineConfig.load(cnns=["alexnet"], security=CLOSED, endpoint={"mode": "serverless"})


def test_the_requests_are_those_of_the_pipeline_with_the_package_as_the_model() -> None:
    model, job = batch.requests(CONFIG, PACKAGE, SOURCE)
    assert model["PrimaryContainer"] == {"ModelPackageName": PACKAGE}
    assert model["ExecutionRoleArn"] == f"{ROLE}serving" and model["VpcConfig"]["Subnets"] == CLOSED["subnets"]
    assert job["ModelName"] == model["ModelName"] == job["TransformJobName"] and len(job["ModelName"]) <= 63
    assert job["ModelName"].startswith("mammopipe-batch-3-"), "the stack's policy names them so"
    assert job["TransformOutput"]["S3OutputPath"] == f"s3://{BUCKET}/mammopipe/batch/answers/{job['ModelName']}"
    assert job["TransformOutput"]["KmsKeyId"] == KEY
    assert batch.requests(CONFIG, PACKAGE, SOURCE)[0]["ModelName"] != model["ModelName"], "two batches never meet"
    faults = [*_model(StepRequest("m", "Model", "CreateModel", model))]
    assert faults + [*_model(StepRequest("t", "Transform", "CreateTransformJob", job))] == []


class SageMaker:
    """Answers like SageMaker; the job writes an answer for each input in `answered`."""

    def __init__(self, services: LocalServices, folder: Path, answered: dict[str, Any], status: str = "Completed"):
        self.services, self.folder, self.answered, self.status = services, folder, answered, status
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        def call(*words: Any, **given: Any) -> Any:
            self.calls.append(name)
            if name == "create_transform_job":
                for key, body in self.answered.items():
                    path = self.folder / "answer"
                    path.write_text(json.dumps(body) + "\n")
                    self.services.storage.put(path, f"{given['TransformOutput']['S3OutputPath']}/{key}.out")
            if name == "describe_transform_job":
                return {"TransformJobStatus": self.status, "FailureReason": "ClientError: see logs"}
            return self

        return call


def images(services: LocalServices, folder: Path, *names: str) -> None:
    for name in names:
        (folder / "image").write_text(name)
        services.storage.put(folder / "image", f"{SOURCE}/{name}")


def test_answers_come_as_json_lines_and_the_model_goes(services: LocalServices, tmp_path: Path) -> None:
    images(services, tmp_path, "1.dcm", "2.dcm", "3.dcm")
    refusal = {"error": {"code": "corrupt_image", "message": "cut off"}}
    sagemaker, said = SageMaker(services, tmp_path, {"1.dcm": {"a": 1}, "2.dcm": refusal}, "Failed"), []
    target = tmp_path / "answers.jsonl"
    written = batch.predict(CONFIG, sagemaker, services.storage, PACKAGE, SOURCE, target, said.append)
    assert (written.answered, written.refused, written.missing) == (1, 1, 1)
    found = [json.loads(line) for line in target.read_text().splitlines()]
    assert found[0] == {"input": "1.dcm", "answer": {"a": 1}} and found[1] == {"input": "2.dcm", **refusal}
    assert found[2]["error"]["code"] == "no_answer"
    assert "Failed: ClientError: see logs" in said[-1]
    assert sagemaker.calls[-1] == "delete_model"


def test_what_cannot_work_is_said_before_anything_is_made(services: LocalServices, tmp_path: Path) -> None:
    sagemaker = SageMaker(services, tmp_path, {})
    for package, source, config, message in (
        (PACKAGE, f"s3://{BUCKET}/empty", CONFIG, "there is no object below"),
        ("latest", SOURCE, CONFIG, "must be an ARN such as arn:aws:sagemaker"),
        (PACKAGE, SOURCE, PipelineConfig(), "set the role of your account"),
    ):
        images(services, tmp_path, "1.dcm")
        with pytest.raises(ConfigError, match=message):
            batch.predict(config, sagemaker, services.storage, package, source, tmp_path / "x", print)
    assert sagemaker.calls == []
