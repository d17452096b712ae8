"""Endpoints are deleted with everything that belongs to them, and only if their tags are the configuration's."""

from typing import Any

import boto3
import pytest

from mammopipe.pipelines import cli
from mammopipe.pipelines.account.removal import Services, plan, remove
from mammopipe.pipelines.account.scaling import release_candidates
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
    """Return the names of all endpoints, configurations and models of the account."""
    return [
        *(item["EndpointName"] for item in sagemaker.list_endpoints()["Endpoints"]),
        *(item["EndpointConfigName"] for item in sagemaker.list_endpoint_configs()["EndpointConfigs"]),
        *(item["ModelName"] for item in sagemaker.list_models()["Models"]),
    ]


class Recorder:
    """Replaces the clients of autoscaling and CloudWatch."""

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


EARLIER = {
    # name of configuration and model: (async, tags, deleted with the endpoint `mammopipe`, with its candidate)
    f"mammopipe-3-{'a' * 32}": (False, OURS, True, False),
    "mammopipe-12-0123abcd": (False, OURS, True, False),
    f"mammopipe-4-{'b' * 32}": (False, THEIRS, False, False),
    f"mammopipe-5-{'c' * 32}": (True, OURS, False, False),  # of mammopipe-async, which begins in the same way
    "mammopipe-a-6-0123abcd": (True, OURS, False, False),
    "mammopipe-candidate-abcdefghijkl-xyz": (False, OURS, False, True),
    "mammopipe-candidate-a-abcdefghijkl": (True, OURS, False, False),
    "mammopipe-of-someone": (False, OURS, False, False),
    "mammopipe2-3-0123abcd": (False, OURS, False, False),
}


def earlier(sagemaker: Any) -> None:
    container = {"Image": "image", "ModelDataUrl": "s3://b/model.tar.gz"}
    for name, (asynchronous, tags, *_) in EARLIER.items():
        sagemaker.create_model(ModelName=name, PrimaryContainer=container, ExecutionRoleArn=ROLE, Tags=tags)
        variant = {"VariantName": "AllTraffic", "ModelName": name, "InstanceType": "ml.m5.large"}
        output = {"AsyncInferenceConfig": {"OutputConfig": {"S3OutputPath": "s3://b/o"}}} if asynchronous else {}
        sagemaker.create_endpoint_config(
            EndpointConfigName=name, ProductionVariants=[{**variant, "InitialInstanceCount": 1}], Tags=tags, **output
        )


@pytest.mark.parametrize(("name", "column"), [("mammopipe", 2), ("mammopipe-candidate", 3)])
def test_what_earlier_deployments_left_goes_too_unless_it_is_used_or_anothers(
    services: LocalServices, name: str, column: int
) -> None:
    sagemaker = services.sagemaker
    endpoint(sagemaker, name)
    earlier(sagemaker)
    wanted = {one for one, facts in EARLIER.items() if facts[column]}
    found = plan(CONFIG, sagemaker, name)
    assert set(found.endpoint_configs) == wanted | {f"{name}-c"} and set(found.models) == wanted | {f"{name}-m"}
    # A configuration that an endpoint uses, or is being updated to, is never among them.
    used = min(wanted)
    sagemaker.create_endpoint(EndpointName="mammopipe-twin", EndpointConfigName=used, Tags=OURS)
    found = plan(CONFIG, sagemaker, name)
    assert used not in found.endpoint_configs and used not in found.models


def test_what_is_left_of_an_endpoint_that_has_expired_is_deleted_alone(services: LocalServices) -> None:
    sagemaker = services.sagemaker
    earlier(sagemaker)
    found, scaling = plan(CONFIG, sagemaker, "mammopipe-candidate"), Recorder(scaled=True)
    assert found.status == "" and "there is none" in found.lines()[0]
    remove(found, Services(sagemaker, scaling, Recorder()), lambda line: None)
    gone = {"mammopipe-candidate-abcdefghijkl-xyz", "mammopipe-candidate-a-abcdefghijkl"}
    assert set(left(sagemaker)) == EARLIER.keys() - gone and not scaling.calls


@pytest.mark.parametrize(
    ("before", "after", "released"),
    [("ml.m5.large", "ml.g5.xlarge", True), ("ml.m5.large", "ml.m5.large", False), ("", "ml.m5.large", False)],
)
def test_a_run_that_changes_the_candidates_instances_takes_it_from_autoscaling_first(
    services: LocalServices, before: str, after: str, released: bool
) -> None:
    if before:
        endpoint(services.sagemaker, "mammopipe-candidate")
    scaling, said = Recorder(scaled=True), []
    release_candidates(CONFIG, after, services.sagemaker, scaling, said.append)
    calls = [call for call, _ in scaling.calls]
    assert calls == (["describe_scalable_targets", "deregister_scalable_target"] if released else [])
    assert bool(said) is released
    release_candidates(CONFIG.replace(deploy=False), "ml.g5.xlarge", services.sagemaker, scaling, said.append)
    assert len(scaling.calls) == len(calls), "a run that serves nothing changes nothing"


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
    with pytest.raises(ConfigError, match="does not exist in this account and region"):
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
    assert "there is no terminal to confirm this; add --yes" in capsys.readouterr().err
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
