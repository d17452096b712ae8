"""Runs on AWS: the checks before the start, and what the start creates in the account."""

import contextlib
from pathlib import Path

import pytest

from mammopipe.pipelines import PipelineConfig
from mammopipe.pipelines.backends.sessions import LocalServices
from mammopipe.pipelines.backends.step_status import Status
from mammopipe.pipelines.runs import preflight
from mammopipe.pipelines.runs.launch import start
from mammopipe.processing.errors import ConfigError


@pytest.fixture
def said() -> list[str]:
    return []


def put(services: LocalServices, folder: Path, uri: str) -> None:
    (folder / "object").write_text("an object")
    services.storage.ensure_bucket(uri.split("/")[2])
    services.storage.put(folder / "object", uri)


def test_on_aws_the_pipeline_is_created_and_started(
    services: LocalServices, monkeypatch: pytest.MonkeyPatch, said: list[str], tmp_path: Path
) -> None:
    client = services.sagemaker
    put(services, tmp_path, "s3://films/raw/Info.txt")
    put(services, tmp_path, "s3://films/weights/alexnet.pth")
    monkeypatch.setenv("AWS_ENDPOINT_URL", client.meta.endpoint_url)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "tests")
    config = PipelineConfig.load(security={"role": "arn:aws:iam::123456789012:role/mammopipe"})
    for _ in range(2):  # created the first time, updated the second
        run = start(
            config,
            backend="aws",
            source="s3://films/raw/",
            weights="s3://films/weights/",
            parameters={"Epochs": "9"},
            say=said.append,
        )
    assert run.status is Status.EXECUTING and run.arn in said[-1]
    (pipeline,) = client.list_pipelines()["PipelineSummaries"]
    found = client.list_pipeline_parameters_for_execution(PipelineExecutionArn=run.arn)["PipelineParameters"]
    values = {item["Name"]: item["Value"] for item in found}
    assert pipeline["PipelineName"] == "mammopipe"
    assert values["Epochs"] == "9" and values["InputDataUri"] == "s3://films/raw"
    assert values["WeightsUri"] == "s3://films/weights"
    with pytest.raises(ConfigError, match="is on AWS"):
        run.document("evaluation.json")


def test_on_aws_the_configurations_own_images_are_the_default(
    services: LocalServices, monkeypatch: pytest.MonkeyPatch, said: list[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", services.sagemaker.meta.endpoint_url)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "tests")
    config = PipelineConfig.load(security={"role": "arn:aws:iam::123456789012:role/mammopipe"})
    with pytest.raises(ConfigError, match="InputDataUri=s3://mammopipe/mammopipe/raw/mias: there is no object below"):
        start(config, backend="aws", say=said.append)
    put(services, tmp_path, "s3://mammopipe/mammopipe/raw/mias/Info.txt")
    start(config, backend="aws", say=said.append)
    assert said[-1].endswith("which reads s3://mammopipe/mammopipe/raw/mias")


@pytest.mark.parametrize(
    ("names", "learns", "message"),
    [
        (["alexnet-7be5be79.pth", "resnet50.pth.sha256"], "all", "no weights of resnet50, resnet18 below"),
        (["resnet50.txt"], "all", "no weights of resnet50, resnet18"),
        (["resnet50.pth"], "head", "no weights of resnet18, and a head learns on"),
        (["resnet50.pth"], "all", ""),
        (["resnet50.pth", "resnet18-5c106cde.pth"], "head", ""),
        (["model.tar.gz"], "all", ""),
    ],
)
def test_staged_weights_that_fit_no_network_are_refused_before_the_start(
    names: list[str], learns: str, message: str
) -> None:
    config = PipelineConfig.load(cnns=["resnet50", "resnet18"], training={"learns": learns}, pretrained=True)
    keys = [f"mammopipe/weights/{name}" for name in names]
    with pytest.raises(ConfigError, match=message) if message else contextlib.nullcontext():
        preflight.check_staged_weights(config, keys, "s3://mammopipe/mammopipe/weights")


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ({"source": "all-mias.tar.gz"}, r"all-mias.tar.gz: stage it first \(mammopipe stage mias"),
        ({"weights": "weights.pth"}, r"weights.pth: stage it first \(mammopipe stage weights"),
        ({"source": "phantoms"}, "phantoms: made on this machine only"),
    ],
)
def test_on_aws_what_is_read_must_be_staged_before(places: dict[str, str], message: str) -> None:
    config = PipelineConfig.load(security={"role": "arn:aws:iam::123456789012:role/mammopipe"})
    with pytest.raises(ConfigError, match=message):
        start(config, backend="aws", **places)


def test_on_aws_the_placeholder_role_is_refused() -> None:
    with pytest.raises(ConfigError, match="security.role="):
        start(PipelineConfig(), backend="aws")
