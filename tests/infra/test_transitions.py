"""Which changes of an endpoint's mode an approval may make, and the effect of events that come twice or late."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from tests.pipelines.compiled import CLOSED, Compiled

from .conftest import Account
from .simulated import SageMaker, mode_of, refusal
from .states_language import Failed, Machine

ARN = "arn:aws:sagemaker:eu-central-1:123456789012:model-package/mammopipe/"
MODES: Mapping[str, Mapping[str, str]] = {
    "none": {},
    "realtime": {"mammopipe": "realtime"},
    "async": {"mammopipe": "async"},
    "both": {"mammopipe": "realtime", "mammopipe-async": "async"},
    "serverless": {"mammopipe": "serverless"},
}
"""The endpoints that each mode leaves."""
ALLOWED = {
    "none": {"realtime", "async", "both", "serverless"},
    "realtime": {"realtime", "both"},
    "async": {"async"},
    "both": {"both", "realtime"},
    "serverless": {"serverless"},
}
"""The modes that an approval may change each mode into; SageMaker cannot change the mode of one endpoint."""


def machine(account: Account, logical: str = "Deployment", **parameters: Any) -> dict[str, Any]:
    """Return a state machine of a stack with these parameters."""
    template = type(account.template)(parameters, account.template.names)
    return dict(json.loads(template.resources("AWS::StepFunctions::StateMachine")[logical]["DefinitionString"]))


def approve(
    account: Account, cloud: SageMaker, version: int = 1, *, time: str = "2026-01-01T00:00:00Z", **parameters: Any
) -> list[str]:
    """Run the machine for the approval of a package and return the states that it entered."""
    package = f"{ARN}{version}"
    if package not in cloud.packages:
        cloud.add(package, modified=time)
    cloud.scaling = machine(account, "Scaling", **parameters)
    execution = Machine(lambda service, operation, given: cloud.answer(operation, given))
    execution.run(machine(account, **parameters), {"package": package, "time": time})
    return execution.entered


def served(cloud: SageMaker) -> dict[str, str]:
    """Return the endpoints and their modes."""
    return {name: mode_of(cloud.configs[item["EndpointConfigName"]]) for name, item in cloud.endpoints.items()}


@pytest.mark.parametrize("before", MODES)
@pytest.mark.parametrize("after", [mode for mode in MODES if mode != "none"])
def test_a_mode_changes_only_into_what_sagemaker_takes(account: Account, before: str, after: str) -> None:
    cloud = SageMaker()
    if before != "none":
        approve(account, cloud, 1, Mode=before)
    if after in ALLOWED[before]:
        approve(account, cloud, 2, time="2026-02-01T00:00:00Z", Mode=after)
        assert served(cloud).items() >= MODES[after].items()
        for name in MODES[after]:
            model = cloud.models[cloud.endpoints[name]["EndpointConfigName"]]
            assert model["PrimaryContainer"]["ModelPackageName"] == f"{ARN}2"
    else:
        standing = dict(cloud.endpoints)
        with pytest.raises(Failed, match=r"Delete it \(mammopipe delete\)"):
            approve(account, cloud, 2, time="2026-02-01T00:00:00Z", Mode=after)
        assert cloud.endpoints == standing and not cloud.updates, "what serves goes on serving"


@pytest.mark.parametrize("before", [mode for mode in MODES if mode != "none"])
def test_nothing_deletes_an_endpoint_but_the_delete_command(account: Account, before: str) -> None:
    text = json.dumps(machine(account, Mode=before))
    assert "deleteEndpoint" not in text


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "none"])
def test_guardrails_are_sent_where_they_are_taken(account: Account, mode: str) -> None:
    cloud = SageMaker()
    approve(account, cloud, 1, Mode=mode)
    approve(account, cloud, 2, time="2026-02-01T00:00:00Z", Mode=mode)
    assert len(cloud.updates) == len(MODES[mode])
    for update in cloud.updates:
        assert ("DeploymentConfig" in update) == (mode != "serverless")
    alarms = {
        alarm["AlarmName"]
        for update in cloud.updates
        for alarm in update.get("DeploymentConfig", {}).get("AutoRollbackConfiguration", {}).get("Alarms", [])
    }
    there = {item["AlarmName"] for item in account.template.resources("AWS::CloudWatch::Alarm").values()}
    both = type(account.template)({"Mode": "both"}, account.template.names).resources("AWS::CloudWatch::Alarm")
    assert alarms <= there | {item["AlarmName"] for item in both.values()}


@pytest.mark.parametrize("mode", ["realtime", "async", "both"])
def test_an_autoscaled_variant_is_deregistered_before_its_instance_type_changes(account: Account, mode: str) -> None:
    cloud = SageMaker()
    approve(account, cloud, 1, Mode=mode)
    assert cloud.targets
    approve(account, cloud, 2, time="2026-02-01T00:00:00Z", Mode=mode, InstanceType="ml.m5.xlarge")
    types = {
        cloud.configs[item["EndpointConfigName"]]["ProductionVariants"][0]["InstanceType"]
        for item in cloud.endpoints.values()
    }
    assert types == {"ml.m5.xlarge"}
    assert set(cloud.targets) == {f"endpoint/{name}/variant/AllTraffic" for name in MODES[mode]}, "and scaled again"


@pytest.mark.parametrize("mode", ["realtime", "async", "both", "serverless"])
def test_an_endpoint_that_a_run_deploys_scales_as_soon_as_it_serves(account: Account, mode: str) -> None:
    """The compiled pipeline makes the requests; a second event, and one of a deleted endpoint, change nothing."""
    cloud = SageMaker(lasts=0, scaling=machine(account, "Scaling", MinInstances=1, MaxInstances=3))
    names = deployed(cloud, mode)
    for name in (*names, *names, "mammopipe-candidate-gone"):
        cloud.serves(name)
    wanted = {
        f"endpoint/{name}/variant/AllTraffic": (0 if kind == "async" else 1, 3)
        for name, kind in names.items()
        if kind != "serverless"
    }
    assert {name: (item["MinCapacity"], item["MaxCapacity"]) for name, item in cloud.targets.items()} == wanted
    assert {alarm["AlarmName"] for alarm in cloud.alarms} == {
        f"{name}-wake" for name, kind in names.items() if kind == "async"
    }


def deployed(cloud: SageMaker, mode: str) -> dict[str, str]:
    """Create the candidate's endpoints as the compiled pipeline would; return how each serves."""
    requests = Compiled({"cnns": ["alexnet"], "security": CLOSED, "endpoint": {"mode": mode}}).requests()
    for step, request in requests.items():
        if step.startswith("Model"):
            cloud.models[request["ModelName"]] = request
        elif step.startswith("EndpointConfig"):
            cloud.configs[request["EndpointConfigName"]] = request
    made = {}
    for step, request in requests.items():
        if step.startswith("Endpoint") and not step.startswith("EndpointConfig"):
            config = requests[step.replace("Endpoint", "EndpointConfig", 1)]
            cloud.answer("CreateEndpoint", {**request, "EndpointConfigName": config["EndpointConfigName"]})
            made[request["EndpointName"]] = mode_of(config)
    return made


def test_the_event_of_every_endpoint_starts_the_scaling(account: Account) -> None:
    rule = account.template.resources("AWS::Events::Rule")["Serves"]
    assert set(rule["EventPattern"]["detail"]["EndpointName"]) == {
        "mammopipe", "mammopipe-async", "mammopipe-candidate", "mammopipe-candidate-async"
    }  # fmt: skip
    (target,) = rule["Targets"]
    assert target["Arn"] == account.template.names["Scaling"]
    assert json.loads(target["InputTransformer"]["InputTemplate"].replace("<endpoint>", "e")) == {"endpoint": "e"}


@pytest.mark.parametrize(("percent", "captures"), [(0, False), (20, True)])
def test_an_approved_endpoint_captures_what_the_stack_says(account: Account, percent: int, captures: bool) -> None:
    cloud = SageMaker()
    approve(account, cloud, CapturePercent=0)
    approve(account, cloud, 2, time="2026-02-01T00:00:00Z", CapturePercent=percent)
    config = cloud.configs[cloud.endpoints["mammopipe"]["EndpointConfigName"]]
    assert ("DataCaptureConfig" in config) is captures
    if captures:
        found = config["DataCaptureConfig"]
        assert (found["InitialSamplingPercentage"], found["DestinationS3Uri"][-18:]) == (20, "/capture/mammopipe")
    # Retained properties would keep the capture settings of the earlier configuration.
    (update,) = cloud.updates
    assert update["ExcludeRetainedVariantProperties"] == [{"VariantPropertyType": "DataCaptureConfig"}]


def test_an_async_endpoint_scales_to_none_and_wakes_for_the_first_request(account: Account) -> None:
    cloud = SageMaker()
    approve(account, cloud, Mode="async")
    (target,) = cloud.targets.values()
    assert (target["MinCapacity"], target["MaxCapacity"]) == (0, 4)
    kinds = [policy["PolicyType"] for policy in cloud.policies]
    assert kinds == ["TargetTrackingScaling", "StepScaling"]
    (alarm,) = cloud.alarms
    assert (alarm["MetricName"], alarm["AlarmActions"]) == ("HasBacklogWithoutCapacity", ["arn:mammopipe-wake"])


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "none"])
def test_an_event_that_comes_twice_changes_nothing_and_fails_nothing(account: Account, mode: str) -> None:
    cloud = SageMaker()
    approve(account, cloud, Mode=mode)
    before, models = json.dumps(cloud.endpoints, sort_keys=True), set(cloud.models)
    entered = approve(account, cloud, Mode=mode)
    assert json.dumps(cloud.endpoints, sort_keys=True) == before and set(cloud.models) == models
    assert not cloud.updates and entered[-1] == "Unchanged"


def test_an_event_that_comes_twice_at_once_waits_for_the_first_to_end(account: Account) -> None:
    cloud = SageMaker(lasts=3)
    definition = machine(account)
    cloud.add(f"{ARN}1")
    nested: list[list[str]] = []

    def call(service: str, operation: str, given: dict[str, Any]) -> Any:
        if operation == "CreateEndpoint" and not nested:
            nested.append([])
            second = Machine(lambda service, operation, given: cloud.answer(operation, given))
            second.run(definition, {"package": f"{ARN}1", "time": "2026-01-01T00:00:00Z"})
            nested[0] = second.entered
        return cloud.answer(operation, given)

    cloud.scaling = machine(account, "Scaling")
    first = Machine(call)
    first.run(definition, {"package": f"{ARN}1", "time": "2026-01-01T00:00:00Z"})
    assert first.entered[-1] == nested[0][-1] == "Scale" and len(cloud.targets) == 1
    assert len(cloud.endpoints) == len(cloud.models) == 1


def test_a_late_event_does_not_undo_a_later_approval(account: Account) -> None:
    cloud = SageMaker()
    approve(account, cloud, 4, time="2026-02-02T00:00:00Z")
    entered = approve(account, cloud, 3, time="2026-02-01T00:00:00Z")
    assert entered[-1] == "Superseded" and not cloud.updates


def test_an_older_package_that_is_approved_again_is_served(account: Account) -> None:
    cloud = SageMaker()
    approve(account, cloud, 4, time="2026-02-02T00:00:00Z")
    approve(account, cloud, 3, time="2026-02-03T00:00:00Z")
    (config,) = {item["EndpointConfigName"] for item in cloud.endpoints.values()}
    assert config.startswith("mammopipe-3-")


def test_a_start_by_hand_brings_an_older_package_back(account: Account) -> None:
    cloud = SageMaker()
    cloud.add(f"{ARN}3")
    approve(account, cloud, 4)
    cloud.scaling = machine(account, "Scaling")
    Machine(lambda service, operation, given: cloud.answer(operation, given)).run(
        machine(account), {"package": f"{ARN}3"}
    )
    (update,) = cloud.updates
    assert update["EndpointConfigName"].startswith("mammopipe-3-")


@pytest.mark.parametrize("status", ["Rejected", "PendingManualApproval"])
def test_an_approval_that_was_withdrawn_serves_nothing(account: Account, status: str) -> None:
    cloud = SageMaker()
    cloud.add(f"{ARN}1", status)
    assert approve(account, cloud)[-1] == "Withdrawn" and not cloud.endpoints
    with pytest.raises(Failed, match="NotApproved"):
        Machine(lambda service, operation, given: cloud.answer(operation, given)).run(
            machine(account), {"package": f"{ARN}1"}
        )


def test_changed_settings_make_new_names_and_equal_ones_the_same(account: Account) -> None:
    def name(**parameters: Any) -> str:
        cloud = SageMaker()
        approve(account, cloud, **parameters)
        return str(cloud.endpoints["mammopipe"]["EndpointConfigName"])

    assert name() == name() != name(InstanceType="ml.m5.xlarge") != name(Mode="async")


@pytest.mark.parametrize("version", [1, 12345])
def test_the_longest_names_are_taken(account: Account, version: int) -> None:
    cloud = SageMaker()
    approve(account, cloud, version, EndpointName="a" * 24)
    assert all(len(name) <= 63 for name in [*cloud.configs, *cloud.models])


@pytest.mark.parametrize("status", ["Failed", "OutOfService", "UpdateRollbackFailed"])
def test_a_broken_endpoint_is_named_with_what_to_do(account: Account, status: str) -> None:
    cloud = SageMaker()
    approve(account, cloud, 1)
    cloud.endpoints["mammopipe"]["EndpointStatus"] = status
    with pytest.raises(Failed, match="Broken"):
        approve(account, cloud, 2, time="2026-02-01T00:00:00Z")


def test_an_update_that_was_rolled_back_is_no_success(account: Account) -> None:
    cloud = SageMaker()
    approve(account, cloud, 1)
    old = cloud.endpoints["mammopipe"]["EndpointConfigName"]

    def call(service: str, operation: str, given: dict[str, Any]) -> Any:
        answer = cloud.answer(operation, given)
        if operation == "UpdateEndpoint":
            cloud.endpoints["mammopipe"]["next"] = old
        return answer

    cloud.add(f"{ARN}2")
    with pytest.raises(Failed, match="NotServed"):
        Machine(call).run(machine(account), {"package": f"{ARN}2", "time": "2026-02-01T00:00:00Z"})


EXPIRE = {"endpoint": "mammopipe-candidate"}


def expiry(account: Account) -> dict[str, Any]:
    machines = account.template.resources("AWS::StepFunctions::StateMachine")
    return dict(json.loads(machines["Expiry"]["DefinitionString"]))


@pytest.mark.parametrize(
    ("later", "deleted"), [("2026-01-01T00:00:00Z", True), ("2026-01-01T09:00:00Z", False), (None, False)]
)
def test_a_candidate_ends_unless_a_later_run_took_its_name_over(
    account: Account, later: str | None, deleted: bool
) -> None:
    looks = iter(["2026-01-01T00:00:00Z", later])
    calls = []

    def call(service: str, operation: str, given: dict[str, Any]) -> Any:
        calls.append(operation)
        if operation == "DescribeEndpoint":
            time = next(looks)
            if time is None:
                raise refusal(operation, "Could not find endpoint")
            return {"LastModifiedTime": time}
        return {}

    Machine(call).run(expiry(account), EXPIRE)
    assert ("DeleteEndpoint" in calls) is deleted
    # An endpoint is deregistered from autoscaling before it is deleted, and its alarm that wakes it is deleted.
    assert calls[2:] == (["DeregisterScalableTarget", "DeleteAlarms", "DeleteEndpoint"] if deleted else [])
    assert expiry(account)["States"]["Wait"]["Seconds"] == 86400


def test_candidates_stay_where_no_seconds_are_given(account: Account) -> None:
    template = type(account.template)({"CandidateSeconds": 0}, account.template.names)
    assert "Expiry" not in template.resources("AWS::StepFunctions::StateMachine")
    assert "CandidateServes" not in template.resources("AWS::Events::Rule")
