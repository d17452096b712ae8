"""The schedule of the monitor: the job that it starts for the served model, and what its roles may do."""

import json
from typing import Any

import pytest

from mammopipe.pipelines.graph.aws_rules import _model
from mammopipe.pipelines.graph.permissions import AccountAndRegion, _of_job
from mammopipe.pipelines.graph.request_rules import RULES
from mammopipe.pipelines.graph.requests import StepRequest

from .conftest import REGION, Account
from .policies import allowed, listed
from .simulated import SageMaker
from .states_language import Machine
from .template import Template, load
from .test_transitions import ARN, approve

PLACE = AccountAndRegion("123456789012", REGION)
GIVEN = {"MonitorSchedule": "rate(7 days)", "CapturePercent": 10}
IMAGE = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/mammopipe/serving:"
MODEL = "s3://mammopipe-123456789012-eu-central-1/mammopipe/executions/run{}/model/model.tar.gz"
MACHINE = f"arn:aws:states:{REGION}:123456789012:stateMachine:mammopipe-monitor"


@pytest.fixture(scope="module")
def template(account: Account) -> Template:
    roles = {
        f"{name}Role.Arn": f"arn:aws:iam::123456789012:role/mammopipe-{name.lower()}"
        for name in ("Monitor", "MonitorStart", "Scheduler")
    }
    names = {
        "SubnetA": "subnet-1",
        "SubnetB": "subnet-2",
        "ServingRepository.Arn": f"arn:aws:ecr:{REGION}:123456789012:repository/mammopipe/serving",
        "MonitorStart": MACHINE,
    }
    return Template(GIVEN, {**account.template.names, **roles, **names})


@pytest.fixture(scope="module")
def cloud(account: Account, template: Template) -> SageMaker:
    """An account in which two packages were approved, and the monitor was started once; the second one is served."""
    cloud = SageMaker()
    for version in (1, 2):
        approve(account, cloud, version, time=f"2026-0{version}-01T00:00:00Z", **GIVEN)
        containers = [{"Image": f"{IMAGE}{version}", "ModelDataUrl": MODEL.format(version)}]
        cloud.packages[f"{ARN}{version}"]["InferenceSpecification"] = {"Containers": containers}
    start(template, cloud)
    return cloud


def start(template: Template, cloud: SageMaker) -> list[str]:
    definition = template.resources("AWS::StepFunctions::StateMachine")["MonitorStart"]["DefinitionString"]
    machine = Machine(lambda service, operation, given: cloud.answer(operation, given))
    machine.run(json.loads(definition), {})
    return machine.entered


@pytest.fixture(scope="module")
def job(cloud: SageMaker) -> dict[str, Any]:
    (found,) = cloud.jobs
    return found


def test_without_a_schedule_nothing_is_scheduled(account: Account, template: Template) -> None:
    (schedule,) = template.resources("AWS::Scheduler::Schedule").values()
    assert schedule["ScheduleExpression"] == "rate(7 days)" and schedule["Target"]["Arn"] == MACHINE
    assert not account.template.resources("AWS::Scheduler::Schedule")


def test_the_monitor_compares_with_the_model_that_is_served(job: dict[str, Any]) -> None:
    inputs = {item["InputName"]: item["S3Input"]["S3Uri"] for item in job["ProcessingInputs"]}
    assert inputs["model"] == MODEL.format(2) and job["AppSpecification"]["ImageUri"] == f"{IMAGE}2"
    assert inputs["captures"].endswith("/mammopipe/capture/mammopipe/")


def test_before_the_first_approval_the_monitor_does_nothing(template: Template) -> None:
    cloud = SageMaker()
    assert start(template, cloud)[-1] == "NothingServed" and not cloud.jobs


def test_a_schedule_without_captures_is_refused() -> None:
    rule = load()["Rules"]["MonitorHasCaptures"]
    texts = [item["AssertDescription"] for item in rule["Assertions"]]
    assert "CapturePercent" in texts[0] and "Mode" in texts[1]


def test_the_job_is_one_that_sagemaker_takes(job: dict[str, Any]) -> None:
    asked = StepRequest("Monitor", "Processing", "CreateProcessingJob", job)
    assert [*_model(asked), *(fault for rule in RULES["Processing"] for fault in rule(job))] == []
    assert job["NetworkConfig"]["EnableNetworkIsolation"] is True
    assert job["NetworkConfig"]["VpcConfig"]["Subnets"] == ["subnet-1", "subnet-2"]


def test_the_longest_project_makes_a_name_that_sagemaker_takes(account: Account, template: Template) -> None:
    cloud = SageMaker()
    approve(account, cloud)
    cloud.packages[f"{ARN}1"]["InferenceSpecification"] = {"Containers": [{"Image": "i", "ModelDataUrl": "s3://b/m"}]}
    start(Template({**GIVEN, "Project": "p" * 20}, template.names), cloud)
    (found,) = cloud.jobs
    assert len(found["ProcessingJobName"]) <= 63


def test_the_roles_may_do_what_the_job_needs_and_no_more(template: Template, job: dict[str, Any]) -> None:
    roles = template.resources("AWS::IAM::Role")
    policies = template.resources("AWS::IAM::ManagedPolicy")
    monitor = [item["PolicyDocument"] for item in roles["MonitorRole"]["Policies"]]
    monitor += [policies[name]["PolicyDocument"] for name in ("ContainerPolicy", "KeyPolicy")]
    needs = list(_of_job(StepRequest("Monitor", "Processing", "CreateProcessingJob", job), PLACE))
    assert len(needs) > 20
    refused = [
        f"{need.action} on {need.resource}"
        for need in needs
        if not allowed(
            monitor, need.action, need.resource, **{k.replace(":", "__"): v for k, v in need.context.items()}
        )
    ]
    assert refused == []
    assert not allowed(monitor, "s3:GetObject", "arn:aws:s3:::mammopipe-123456789012-eu-central-1/mammopipe/raw/a")


def test_the_start_looks_up_what_is_served_and_passes_one_role(template: Template, job: dict[str, Any]) -> None:
    roles = template.resources("AWS::IAM::Role")
    (starts,) = (item["PolicyDocument"] for item in roles["MonitorStartRole"]["Policies"])
    sagemaker = f"arn:aws:sagemaker:{REGION}:123456789012"
    for action, resource in (
        ("DescribeEndpoint", "endpoint/mammopipe"),
        ("DescribeEndpointConfig", "endpoint-config/mammopipe-2-abc"),
        ("DescribeModel", "model/mammopipe-2-abc"),
        ("DescribeModelPackage", "model-package/mammopipe/2"),
        ("CreateProcessingJob", f"processing-job/{job['ProcessingJobName']}"),
        ("AddTags", f"processing-job/{job['ProcessingJobName']}"),
    ):
        assert allowed([starts], f"sagemaker:{action}", f"{sagemaker}:{resource}"), action
    service = {"iam__PassedToService": "sagemaker.amazonaws.com"}
    assert allowed([starts], "iam:PassRole", job["RoleArn"], **service)
    assert not allowed([starts], "iam:PassRole", "arn:aws:iam::123456789012:role/mammopipe-pipeline", **service)
    (schedules,) = (item["PolicyDocument"] for item in roles["SchedulerRole"]["Policies"])
    assert allowed([schedules], "states:StartExecution", MACHINE)
    assert not allowed([schedules], "states:StartExecution", MACHINE.replace("monitor", "deploy"))
    for name, principal in (("SchedulerRole", "scheduler"), ("MonitorStartRole", "states")):
        (statement,) = listed(roles[name]["AssumeRolePolicyDocument"]["Statement"])
        assert statement["Principal"] == {"Service": f"{principal}.amazonaws.com"}
