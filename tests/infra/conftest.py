"""Fixtures with the stack created on an emulated account, once with its own network and once in an existing one."""

import ast
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import boto3
import pytest
from moto import mock_aws

from .template import PSEUDO, STACK, Template

REGION = PSEUDO["AWS::Region"]
NOT_EMULATED = {
    "AWS::Budgets::Budget",
    "AWS::CloudWatch::Alarm",
    "AWS::EC2::SecurityGroupEgress",
    "AWS::S3::BucketPolicy",
    "AWS::SNS::Subscription",
    "AWS::SNS::TopicPolicy",
    "AWS::SQS::QueuePolicy",
    "AWS::SageMaker::ModelPackageGroup",
}
"""Types that moto's CloudFormation ignores; the tests check their properties through the services' own calls."""


@dataclass(frozen=True)
class Account:
    """An emulated account in which the stack has been created."""

    outputs: Mapping[str, str]
    template: Template
    skipped: frozenset[str]
    """Types of resources that the emulator did not create."""

    def client(self, service: str) -> Any:
        return boto3.client(service, region_name=REGION)

    def role_documents(self, duty: str) -> list[dict[str, Any]]:
        """Return every policy of a role, as IAM has it."""
        iam, role = self.client("iam"), f"mammopipe-{duty}"
        inline = [
            document(iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"])
            for name in iam.list_role_policies(RoleName=role)["PolicyNames"]
        ]
        for policy in iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]:
            arn = policy["PolicyArn"]
            version = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
            found = iam.get_policy_version(PolicyArn=arn, VersionId=version)["PolicyVersion"]
            inline.append(document(found["Document"]))
        return inline


def document(value: Any) -> dict[str, Any]:
    """Return a policy as values; the emulator returns a role's inline policies as Python's text, others as JSON."""
    if not isinstance(value, str):
        return dict(value)
    return dict(ast.literal_eval(value) if value.startswith("{'") else json.loads(value))


def deploy(**parameters: str) -> Account:
    given = [{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()]
    formation = boto3.client("cloudformation", region_name=REGION)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        formation.create_stack(
            StackName="mammopipe",
            TemplateBody=STACK.read_text(encoding="utf-8"),
            Parameters=given,
            Capabilities=["CAPABILITY_NAMED_IAM"],
        )
        (stack,) = formation.describe_stacks(StackName="mammopipe")["Stacks"]
        summaries = formation.list_stack_resources(StackName="mammopipe")["StackResourceSummaries"]
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    skipped = {str(item.message).split()[3] for item in caught if "Tried to parse" in str(item.message)}
    outputs = {item["OutputKey"]: item["OutputValue"] for item in stack["Outputs"]}
    names = {item["LogicalResourceId"]: item["PhysicalResourceId"] for item in summaries}
    bucket = outputs["Bucket"]
    names |= {
        "Bucket.Arn": f"arn:aws:s3:::{bucket}",
        "LogBucket.Arn": f"arn:aws:s3:::{bucket}-logs",
        "LogBucket": f"{bucket}-logs",
        "Key.Arn": outputs["KmsKey"],
        "Topic": outputs["Topic"],
        "Deployment": outputs["Deployment"],
        "Scaling": f"arn:aws:states:{REGION}:123456789012:stateMachine:mammopipe-scale",
        "Serves.Arn": f"arn:aws:events:{REGION}:123456789012:rule/mammopipe-serves",
        "JobGroup.GroupId": outputs["SecurityGroup"],
        "Undelivered.Arn": f"arn:aws:sqs:{REGION}:123456789012:mammopipe-undelivered-approvals",
        "Approved.Arn": f"arn:aws:events:{REGION}:123456789012:rule/mammopipe-approved",
    }
    duties = ("Pipeline", "Processing", "Training", "Serving")
    names |= {f"{duty}Role.Arn": outputs[f"{duty}Role"] for duty in duties}
    account = Account(outputs, Template(parameters, names), frozenset(skipped))
    attach(account)
    return account


def attach(account: Account) -> None:
    """Attach the managed policies to the roles, which the emulator's CloudFormation leaves out."""
    iam = account.client("iam")
    arns = {item["PolicyName"]: item["Arn"] for item in iam.list_policies(Scope="Local")["Policies"]}
    policies = account.template.resources("AWS::IAM::ManagedPolicy")
    made = account.template.resources("AWS::IAM::Role")
    for role in (account.template.raw["Resources"][name] for name in made):
        for reference in role["Properties"].get("ManagedPolicyArns", []):
            name = policies[reference["Ref"]]["ManagedPolicyName"]
            iam.attach_role_policy(
                RoleName=account.template.resolve(role["Properties"]["RoleName"]), PolicyArn=arns[name]
            )


@pytest.fixture(scope="module")
def aws() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "offline")
        patch.setenv("AWS_DEFAULT_REGION", REGION)
        patch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
        patch.delenv("AWS_ENDPOINT_URL", raising=False)
        logging.getLogger("moto").setLevel(logging.ERROR)
        with mock_aws():
            yield


@pytest.fixture(scope="module")
def account(aws: None) -> Account:
    return deploy()


def definition(account: Account) -> dict[str, Any]:
    machine = account.client("stepfunctions").describe_state_machine(stateMachineArn=account.outputs["Deployment"])
    return dict(json.loads(machine["definition"]))
