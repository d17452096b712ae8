"""The schedule of the monitor: the job that it starts, and what its two roles may do."""

import json
from typing import Any

import pytest

from mammopipe.pipelines.graph.aws_rules import _model
from mammopipe.pipelines.graph.permissions import Place, _of_job
from mammopipe.pipelines.graph.request_rules import RULES
from mammopipe.pipelines.graph.requests import Asked

from .conftest import REGION, Account
from .policies import allowed, listed
from .template import Template

UUID = "11111111-2222-3333-4444-555555555555"
PLACE = Place("123456789012", REGION)
GIVEN = {
    "MonitorModel": "s3://mammopipe-123456789012-eu-central-1/mammopipe/executions/abc/model/model.tar.gz",
    "MonitorImage": "123456789012.dkr.ecr.eu-central-1.amazonaws.com/mammopipe/serving:1",
}


@pytest.fixture(scope="module")
def template(account: Account) -> Template:
    roles = {
        f"{name}Role.Arn": f"arn:aws:iam::123456789012:role/mammopipe-{name.lower()}"
        for name in ("Monitor", "Scheduler")
    }
    names = {"SubnetA": "subnet-1", "SubnetB": "subnet-2", "ServingRepository.Arn": repository()}
    return Template(GIVEN, {**account.template.names, **roles, **names})


def repository() -> str:
    return "arn:aws:ecr:eu-central-1:123456789012:repository/mammopipe/serving"


@pytest.fixture(scope="module")
def target(template: Template) -> dict[str, Any]:
    (schedule,) = template.resources("AWS::Scheduler::Schedule").values()
    return dict(schedule["Target"])


@pytest.fixture(scope="module")
def request_(target: dict[str, Any]) -> dict[str, Any]:
    return dict(json.loads(target["Input"].replace("<aws.scheduler.execution-id>", UUID)))


def test_without_a_model_or_an_image_nothing_is_scheduled(account: Account) -> None:
    for left_out in GIVEN:
        some = {key: value for key, value in GIVEN.items() if key != left_out}
        assert not Template(some, account.template.names).resources("AWS::Scheduler::Schedule")


def test_the_job_is_one_that_sagemaker_takes(target: dict[str, Any], request_: dict[str, Any]) -> None:
    assert target["Arn"].endswith(":aws-sdk:sagemaker:createProcessingJob")
    assert len(request_["ProcessingJobName"]) <= 63 and request_["ProcessingJobName"].endswith(UUID)
    asked = Asked("Monitor", "Processing", "CreateProcessingJob", request_)
    assert [*_model(asked), *(fault for rule in RULES["Processing"] for fault in rule(request_))] == []
    assert request_["NetworkConfig"]["EnableNetworkIsolation"] is True
    assert request_["NetworkConfig"]["VpcConfig"]["Subnets"] == ["subnet-1", "subnet-2"]
    assert {item["InputName"] for item in request_["ProcessingInputs"]} == {"captures", "model"}
    assert "<aws.scheduler.execution-id>" in target["Input"], "a name may be used only once"


def test_the_roles_may_do_what_the_job_needs_and_no_more(template: Template, request_: dict[str, Any]) -> None:
    roles = template.resources("AWS::IAM::Role")
    policies = template.resources("AWS::IAM::ManagedPolicy")
    monitor = [item["PolicyDocument"] for item in roles["MonitorRole"]["Policies"]]
    monitor += [policies[name]["PolicyDocument"] for name in ("ContainerPolicy", "KeyPolicy")]
    asked = Asked("Monitor", "Processing", "CreateProcessingJob", request_)
    needs = list(_of_job(asked, PLACE))
    assert len(needs) > 20
    refused = [
        f"{need.action} on {need.resource}"
        for need in needs
        if not allowed(
            monitor, need.action, need.resource, **{k.replace(":", "__"): v for k, v in need.context.items()}
        )
    ]
    assert refused == []
    (starts,) = (item["PolicyDocument"] for item in roles["SchedulerRole"]["Policies"])
    job = f"arn:aws:sagemaker:{REGION}:123456789012:processing-job/{request_['ProcessingJobName']}"
    service = {"iam__PassedToService": "sagemaker.amazonaws.com"}
    assert allowed([starts], "sagemaker:CreateProcessingJob", job)
    assert allowed([starts], "iam:PassRole", request_["RoleArn"], **service)
    assert not allowed([starts], "iam:PassRole", "arn:aws:iam::123456789012:role/mammopipe-pipeline", **service)
    assert not allowed(monitor, "s3:GetObject", "arn:aws:s3:::mammopipe-123456789012-eu-central-1/mammopipe/raw/a")
    trusted = {name: listed(roles[name]["AssumeRolePolicyDocument"]["Statement"])[0] for name in ("SchedulerRole",)}
    assert trusted["SchedulerRole"]["Principal"] == {"Service": "scheduler.amazonaws.com"}
