"""Deploys a package on AWS and rolls back to the one before: on an emulated registry, and by the API's model."""

import datetime
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import boto3
import pytest
from botocore.stub import ANY, Stubber
from moto import mock_aws

from mammopipe.pipelines.config.pipeline import PipelineConfig
from mammopipe.pipelines.runs import aws_rollout
from mammopipe.processing.errors import ConfigError

ROLE = "arn:aws:iam::123456789012:role/mammopipe-"
KEY = "arn:aws:kms:us-east-1:123456789012:key/0f2a"
CONFIG = {"security": {"role": f"{ROLE}pipeline", "serving_role": f"{ROLE}serving", "kms_key": KEY}}
ARN = "arn:aws:sagemaker:us-east-1:123456789012:model-package/mammopipe/"
CONTENT = ("ProductionVariants", "DataCaptureConfig", "AsyncInferenceConfig")
"""What an endpoint's configuration says beside its name."""
NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def config(**endpoint: Any) -> PipelineConfig:
    return PipelineConfig.load(**CONFIG, endpoint={"instance_type": "ml.m5.large", **endpoint})


class Scaling:
    """Application Auto Scaling, with or without a target."""

    def __init__(self, *registered: str):
        self.registered = set(registered)

    def describe_scalable_targets(self, ResourceIds: list[str], **rest: str) -> dict[str, Any]:  # noqa: N803
        return {"ScalableTargets": [name for name in ResourceIds if name in self.registered]}

    def deregister_scalable_target(self, ResourceId: str, **rest: str) -> None:  # noqa: N803
        self.registered.remove(ResourceId)


SCALING = Scaling()


@cache
def emulated() -> Any:
    """Return a client of the emulated account, whichever it is now: a new one takes longer than most tests."""
    return boto3.client("sagemaker", region_name="us-east-1", aws_access_key_id="k", aws_secret_access_key="s")


@pytest.fixture
def sagemaker() -> Iterator[Any]:
    with mock_aws():
        yield emulated()


def add_package(sagemaker: Any, number: int, status: str = "Approved") -> str:
    if number == 1:
        sagemaker.create_model_package_group(ModelPackageGroupName="mammopipe")
    made = sagemaker.create_model_package(
        ModelPackageGroupName="mammopipe",
        ModelApprovalStatus=status,
        InferenceSpecification={
            "Containers": [{"Image": "image", "ModelDataUrl": f"s3://bucket/{number}/model.tar.gz"}],
            "SupportedContentTypes": ["application/dicom"],
            "SupportedResponseMIMETypes": ["application/json"],
        },
    )
    return str(made["ModelPackageArn"])


def test_a_package_gets_the_pipelines_own_endpoint(sagemaker: Any) -> None:
    package, said = add_package(sagemaker, 1), list[str]()
    aws_rollout.deploy(config(), sagemaker, SCALING, package, wait=True, say=said.append)
    now = sagemaker.describe_endpoint(EndpointName="mammopipe")
    variants = sagemaker.describe_endpoint_config(EndpointConfigName=now["EndpointConfigName"])["ProductionVariants"]
    model = sagemaker.describe_model(ModelName=variants[0]["ModelName"])
    assert variants[0]["InstanceType"] == "ml.m5.large"
    assert model["PrimaryContainer"]["ModelPackageName"] == package
    assert model["ExecutionRoleArn"] == f"{ROLE}serving"
    assert said[-1] == f"Endpoint mammopipe: serves {now['EndpointConfigName']}"
    assert re.fullmatch(r"mammopipe-1-[0-9a-f]{8}", now["EndpointConfigName"])


def serving(sagemaker: Any) -> str:
    return str(sagemaker.describe_endpoint(EndpointName="mammopipe")["EndpointConfigName"])


def test_deploying_the_same_package_again_changes_nothing(sagemaker: Any) -> None:
    package, said = add_package(sagemaker, 1), list[str]()
    for _ in range(2):
        aws_rollout.deploy(config(), sagemaker, SCALING, package, wait=False, say=said.append)
    name = serving(sagemaker)
    assert said == [f"Endpoint mammopipe: being created with {name}", f"Endpoint mammopipe: already has {name}"]


@pytest.mark.parametrize("changed", [{"instance_type": "ml.m5.xlarge"}, {"capture_percent": 50}, {"instance_count": 2}])
def test_changed_settings_of_the_same_package_get_a_configuration_of_their_own(
    sagemaker: Any, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any]
) -> None:
    moved: list[str] = []
    monkeypatch.setattr(sagemaker, "update_endpoint", lambda **request: moved.append(request["EndpointConfigName"]))
    package = add_package(sagemaker, 1)
    for settings in ({}, changed, {}):
        aws_rollout.deploy(config(**settings), sagemaker, SCALING, package, wait=False, say=lambda line: None)
    (name,) = moved
    assert name != serving(sagemaker)
    new = sagemaker.describe_endpoint_config(EndpointConfigName=name)
    old = sagemaker.describe_endpoint_config(EndpointConfigName=serving(sagemaker))
    assert {key: new.get(key) for key in CONTENT} != {key: old.get(key) for key in CONTENT}
    for settings in (old, new):
        model = sagemaker.describe_model(ModelName=settings["ProductionVariants"][0]["ModelName"])
        assert model["PrimaryContainer"]["ModelPackageName"] == package


def test_both_endpoints_of_a_configuration_serve_the_package(sagemaker: Any) -> None:
    aws_rollout.deploy(
        config(mode="both"), sagemaker, SCALING, add_package(sagemaker, 1), wait=True, say=lambda line: None
    )
    found = {item["EndpointName"] for item in sagemaker.list_endpoints()["Endpoints"]}
    assert found == {"mammopipe", "mammopipe-async"}


MODES = {"realtime": {}, "async": {"mode": "async"}, "both": {"mode": "both"}, "serverless": {"mode": "serverless"}}
SAME = {("realtime", "both"), ("both", "realtime"), *((mode, mode) for mode in MODES)}
"""The pairs of modes whose endpoints of one name serve alike."""


@pytest.mark.parametrize("before", MODES)
@pytest.mark.parametrize("after", MODES)
def test_a_mode_changes_only_into_what_sagemaker_takes(
    sagemaker: Any, monkeypatch: pytest.MonkeyPatch, before: str, after: str
) -> None:
    moved: list[dict[str, Any]] = []
    monkeypatch.setattr(sagemaker, "update_endpoint", lambda **request: moved.append(request))
    packages = [add_package(sagemaker, 1), add_package(sagemaker, 2)]
    settings = {"rollback_alarms": ["mammopipe-5xx"]}
    for mode, package in ((before, packages[0]), (after, packages[1])):
        changed = config(**MODES[mode], **settings)
        if mode == after and moved is not None and package == packages[1] and (before, after) not in SAME:
            with pytest.raises(ConfigError, match="and SageMaker cannot change it. Delete the endpoint"):
                aws_rollout.deploy(changed, sagemaker, SCALING, package, wait=False, say=lambda line: None)
            assert not moved
            return
        aws_rollout.deploy(changed, sagemaker, SCALING, package, wait=False, say=lambda line: None)
    assert moved and all(("DeploymentConfig" in request) == (after != "serverless") for request in moved)


def test_an_autoscaled_variant_is_deregistered_before_its_instance_type_changes(
    sagemaker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sagemaker, "update_endpoint", lambda **request: None)
    package, target = add_package(sagemaker, 1), "endpoint/mammopipe/variant/AllTraffic"
    for kind, left in (("ml.m5.large", {target}), ("ml.m5.xlarge", set())):
        scaling = Scaling(target)
        aws_rollout.deploy(config(instance_type=kind), sagemaker, scaling, package, wait=False, say=lambda line: None)
        assert scaling.registered == left


def test_a_serverless_endpoint_has_no_instances(sagemaker: Any) -> None:
    aws_rollout.deploy(
        config(mode="serverless"), sagemaker, SCALING, add_package(sagemaker, 1), wait=True, say=lambda line: None
    )
    variant = sagemaker.describe_endpoint_config(EndpointConfigName=serving(sagemaker))["ProductionVariants"][0]
    assert variant["ServerlessConfig"] == {"MemorySizeInMB": 6144, "MaxConcurrency": 5}
    assert "InstanceType" not in variant
    model = sagemaker.describe_model(ModelName=variant["ModelName"])
    assert model["PrimaryContainer"]["Environment"] == {
        "MAMMOPIPE_MAX_BYTES": str(4 * 2**20),
        "MAMMOPIPE_MAX_ANSWER_BYTES": str(4 * 2**20),
    }


def test_what_nobody_approved_is_not_deployed(sagemaker: Any) -> None:
    package = add_package(sagemaker, 1, "PendingManualApproval")
    with pytest.raises(ConfigError, match="its status is PendingManualApproval; only an approved package"):
        aws_rollout.deploy(config(), sagemaker, SCALING, package, wait=False, say=lambda line: None)


@pytest.mark.parametrize("name", ["mammopipe", ARN, f"{ARN}x"])
def test_what_is_no_package_is_named(sagemaker: Any, name: str) -> None:
    with pytest.raises(ConfigError, match="must be an ARN: arn:aws:sagemaker:"):
        aws_rollout.deploy(config(), sagemaker, SCALING, name, wait=False, say=lambda line: None)


def test_the_placeholder_role_deploys_nothing(sagemaker: Any) -> None:
    with pytest.raises(ConfigError, match="set the role of your account"):
        aws_rollout.deploy(PipelineConfig(), sagemaker, SCALING, f"{ARN}1", wait=False, say=lambda line: None)


def test_the_package_before_is_the_newest_approved_one_that_is_older(sagemaker: Any) -> None:
    packages = [add_package(sagemaker, 1), add_package(sagemaker, 2), add_package(sagemaker, 3, "Rejected")]
    packages.append(add_package(sagemaker, 4))
    aws_rollout.deploy(config(), sagemaker, SCALING, packages[3], wait=True, say=lambda line: None)
    assert aws_rollout.previous(config(), sagemaker) == packages[1]


def test_a_model_that_a_pipeline_made_is_known_by_its_artefact(sagemaker: Any) -> None:
    packages = [add_package(sagemaker, 1), add_package(sagemaker, 2)]
    container = {"Image": "image", "ModelDataUrl": "s3://bucket/2/model.tar.gz"}
    sagemaker.create_model(ModelName="of-a-run", PrimaryContainer=container, ExecutionRoleArn=f"{ROLE}serving")
    variant = {"VariantName": "A", "ModelName": "of-a-run", "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    sagemaker.create_endpoint_config(EndpointConfigName="of-a-run", ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName="mammopipe", EndpointConfigName="of-a-run")
    assert aws_rollout.previous(config(), sagemaker) == packages[0]


def test_there_is_nothing_before_the_first(sagemaker: Any) -> None:
    package = add_package(sagemaker, 1)
    aws_rollout.deploy(config(), sagemaker, SCALING, package, wait=True, say=lambda line: None)
    with pytest.raises(ConfigError, match="there is no approved package before it"):
        aws_rollout.previous(config(), sagemaker)


GUARDED = config(rollback_alarms=["mammopipe-5xx"])
OLD = "mammopipe-1-01234567"


@cache
def new_name() -> str:
    """Return what a deployment of the second package creates."""
    with mock_aws():
        client = emulated()
        packages = [add_package(client, number) for number in (1, 2)]
        aws_rollout.deploy(GUARDED, client, SCALING, packages[1], wait=False, say=lambda line: None)
        return serving(client)


class Moving:
    """An endpoint that exists, whose update is answered from a script: the emulator has none."""

    def __init__(self, status: str = "InService", after: str = "", reason: str = "", instances: int = 1):
        client = boto3.client("sagemaker", region_name="us-east-1", aws_access_key_id="k", aws_secret_access_key="s")
        self.client, self.stub = client, Stubber(client)
        add = self.stub.add_response
        add("describe_model_package", described_package(), {"ModelPackageName": f"{ARN}2"})
        add("create_model", {"ModelArn": "arn:aws:sagemaker:us-east-1:123456789012:model/m"}, None)
        add("create_endpoint_config", {"EndpointConfigArn": "arn:aws:sagemaker:us-east-1:123456789012:x/y"}, None)
        add("describe_endpoint", described(OLD, status), {"EndpointName": "mammopipe"})
        if status == "InService":
            add("describe_endpoint_config", described_settings(instances), {"EndpointConfigName": OLD})
            exact = self.expected(instances)
            add("update_endpoint", {"EndpointArn": "arn:aws:sagemaker:us-east-1:123456789012:x/y"}, exact)
            for _ in range(2):
                add("describe_endpoint", described(after or new_name(), reason=reason), {"EndpointName": "mammopipe"})
        self.stub.activate()

    @staticmethod
    def expected(instances: int) -> dict[str, Any]:
        changed = ["DataCaptureConfig", *(["DesiredInstanceCount"] if instances != 1 else [])]
        return {
            "EndpointName": "mammopipe",
            "EndpointConfigName": new_name(),
            "DeploymentConfig": {"BlueGreenUpdatePolicy": ANY, "AutoRollbackConfiguration": ANY},
            "RetainAllVariantProperties": True,
            "ExcludeRetainedVariantProperties": [{"VariantPropertyType": name} for name in changed],
        }

    def deploy(self) -> list[str]:
        said: list[str] = []
        aws_rollout.deploy(GUARDED, self.client, SCALING, f"{ARN}2", wait=True, say=said.append)
        return said


def described(settings: str, status: str = "InService", reason: str = "") -> dict[str, Any]:
    answer = {
        "EndpointName": "mammopipe",
        "EndpointArn": "arn:aws:sagemaker:us-east-1:123456789012:endpoint/mammopipe",
        "EndpointConfigName": settings,
        "EndpointStatus": status,
        "CreationTime": NOW,
        "LastModifiedTime": NOW,
    }
    return answer | ({"FailureReason": reason} if reason else {})


def described_settings(instances: int) -> dict[str, Any]:
    variant = {"VariantName": "AllTraffic", "ModelName": OLD, "InitialInstanceCount": instances}
    arn = f"arn:aws:sagemaker:us-east-1:123456789012:endpoint-config/{OLD}"
    return {"EndpointConfigName": OLD, "EndpointConfigArn": arn, "ProductionVariants": [variant], "CreationTime": NOW}


def described_package() -> dict[str, Any]:
    return {
        "ModelPackageName": "mammopipe",
        "ModelPackageArn": f"{ARN}2",
        "CreationTime": NOW,
        "ModelPackageStatus": "Completed",
        "ModelPackageStatusDetails": {"ValidationStatuses": []},
        "ModelApprovalStatus": "Approved",
    }


def test_an_endpoint_in_service_is_updated_blue_green_and_keeps_its_instances() -> None:
    moving = Moving()
    said = moving.deploy()
    assert said[0] == f"Endpoint mammopipe: being moved from {OLD} to {new_name()}, without downtime"
    assert said[-1] == f"Endpoint mammopipe: serves {new_name()}"
    moving.stub.assert_no_pending_responses()


def test_a_changed_instance_count_replaces_what_autoscaling_chose() -> None:
    moving = Moving(instances=3)
    moving.deploy()
    moving.stub.assert_no_pending_responses()


def test_an_update_that_an_alarm_took_back_is_no_success() -> None:
    with pytest.raises(ConfigError, match=f"rolled back to {OLD}: alarm mammopipe-5xx"):
        Moving(after=OLD, reason="alarm mammopipe-5xx").deploy()


@pytest.mark.parametrize("status", ["Updating", "Failed"])
def test_an_endpoint_that_cannot_be_updated_is_left_alone(status: str) -> None:
    with pytest.raises(ConfigError, match=f"it is {status}, which cannot be updated"):
        Moving(status=status).deploy()
