"""Endpoints are deleted with all that belongs to them, and only those that the configuration made."""

from typing import Any

import boto3
import pytest

from mammopipe.pipelines import cli
from mammopipe.pipelines.account.removal import Services, plan, remove
from mammopipe.pipelines.backends.sessions import LocalServices
from mammopipe.pipelines.config.pipeline import PipelineConfig
from mammopipe.processing.errors import ConfigError

CONFIG = PipelineConfig()
OURS = [{"Key": "project", "Value": "mammopipe"}, {"Key": "cost", "Value": "7"}]
THEIRS = [{"Key": "project", "Value": "other"}]
ROLE = "arn:aws:iam::123456789012:role/a"


def endpoint(sagemaker: Any, name: str, *, tags: Any = OURS, config_tags: Any = OURS, model_tags: Any = OURS) -> None:
    container = {"Image": "image", "ModelDataUrl": "s3://b/model.tar.gz"}
    sagemaker.create_model(ModelName=f"{name}-m", PrimaryContainer=container, ExecutionRoleArn=ROLE, Tags=model_tags)
    variant = {"VariantName": "AllTraffic", "ModelName": f"{name}-m", "InstanceType": "ml.m5.large"}
    sagemaker.create_endpoint_config(
        EndpointConfigName=f"{name}-c", ProductionVariants=[{**variant, "InitialInstanceCount": 1}], Tags=config_tags
    )
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=f"{name}-c", Tags=tags)


def left(sagemaker: Any) -> list[str]:
    """Return the names of everything that is there."""
    return [
        *(item["EndpointName"] for item in sagemaker.list_endpoints()["Endpoints"]),
        *(item["EndpointConfigName"] for item in sagemaker.list_endpoint_configs()["EndpointConfigs"]),
        *(item["ModelName"] for item in sagemaker.list_models()["Models"]),
    ]


class Recorder:
    """Stands where the clients of autoscaling and CloudWatch do."""

    def __init__(self, *, scaled: bool = False) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.scaled = scaled

    def __getattr__(self, name: str) -> Any:
        def call(**given: Any) -> dict[str, Any]:
            self.calls.append((name, given))
            return {"ScalableTargets": [{}] if self.scaled else []}

        return call


@pytest.mark.parametrize(("name", "clinical"), [("mammopipe", True), ("mammopipe-candidate", False)])
def test_an_endpoint_goes_with_its_configuration_and_model(
    services: LocalServices, monkeypatch: pytest.MonkeyPatch, name: str, clinical: bool
) -> None:
    sagemaker = services.sagemaker
    endpoint(sagemaker, name)
    endpoint(sagemaker, "another")
    monkeypatch.setattr(sagemaker, "get_waiter", lambda kind: Recorder())  # the emulator's state changes at once
    scaling, alarms, said = Recorder(scaled=True), Recorder(), []
    found = plan(CONFIG, sagemaker, name)
    assert found.clinical is clinical and len(left(sagemaker)) == 6, "planning deletes nothing"
    assert found.lines()[1:] == [f"endpoint configuration {name}-c", f"model {name}-m"]
    remove(found, Services(sagemaker, scaling, alarms), said.append)
    assert sorted(left(sagemaker)) == ["another", "another-c", "another-m"]
    assert [call for call, _ in scaling.calls] == ["describe_scalable_targets", "deregister_scalable_target"]
    assert scaling.calls[1][1]["ResourceId"] == f"endpoint/{name}/variant/AllTraffic"
    assert alarms.calls == [("delete_alarms", {"AlarmNames": [f"{name}-wake"]})]
    assert len(said) == 3


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"tags": THEIRS}, "endpoint mammopipe: it lacks project=mammopipe"),
        ({"tags": []}, "endpoint mammopipe: it lacks project=mammopipe"),
        ({"config_tags": THEIRS}, "endpoint configuration mammopipe-c: it lacks"),
        ({"model_tags": THEIRS}, "model mammopipe-m: it lacks"),
    ],
)
def test_what_somebody_else_made_is_refused(services: LocalServices, made: dict[str, Any], message: str) -> None:
    endpoint(services.sagemaker, "mammopipe", **made)
    with pytest.raises(ConfigError, match=message):
        plan(CONFIG, services.sagemaker, "mammopipe")
    assert len(left(services.sagemaker)) == 3


def test_other_names_missing_endpoints_and_those_at_work_are_refused(
    services: LocalServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    sagemaker = services.sagemaker
    endpoint(sagemaker, "another")
    with pytest.raises(ConfigError, match="not of this configuration, whose endpoints are mammopipe, mammopipe-cand"):
        plan(CONFIG, sagemaker, "another")
    with pytest.raises(ConfigError, match="there is none in this account"):
        plan(CONFIG, sagemaker, "mammopipe")
    endpoint(sagemaker, "mammopipe")
    real = sagemaker.describe_endpoint
    monkeypatch.setattr(sagemaker, "describe_endpoint", lambda **given: {**real(**given), "EndpointStatus": "Updating"})
    with pytest.raises(ConfigError, match="it is Updating; wait"):
        plan(CONFIG, sagemaker, "mammopipe")


def test_the_command_asks_and_deletes_nothing_without_a_yes(
    services: LocalServices, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint(services.sagemaker, "mammopipe")

    class Session:
        def client(self, name: str) -> Any:
            return services.sagemaker if name == "sagemaker" else Recorder()

    monkeypatch.setattr("mammopipe.pipelines.backends.sessions.caller_session", lambda config: Session())
    assert cli.main(["delete", "--endpoint", "mammopipe"]) == 2
    assert "nobody can be asked here; add --yes" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda question: "")
    assert cli.main(["delete", "--endpoint", "mammopipe"]) == 1
    assert "the endpoint that a clinic calls" in capsys.readouterr().out and len(left(services.sagemaker)) == 3
    assert cli.main(["delete", "latest", "--endpoint", "mammopipe"]) == 2
    assert cli.main(["delete", "--yes"]) == 2


def test_boto_knows_the_calls() -> None:
    for service, call in (
        ("application-autoscaling", "deregister_scalable_target"),
        ("cloudwatch", "delete_alarms"),
        ("sagemaker", "update_model_package"),
    ):
        assert hasattr(boto3.client(service, region_name="us-east-1"), call)
