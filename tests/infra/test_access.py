"""What each role may do, according to the policies in IAM after the stack was created."""

from typing import Any

import pytest

from .conftest import Account, document
from .policies import allowed, listed

BUCKET = "arn:aws:s3:::mammopipe-123456789012-eu-central-1"
FILES = f"{BUCKET}/mammopipe"
RUN = f"{FILES}/executions/abc"
SAGEMAKER = "arn:aws:sagemaker:eu-central-1:123456789012"
WITHOUT_RESOURCE = {
    "cloudwatch:PutMetricData",
    "ec2:DescribeDhcpOptions",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSecurityGroups",
    "ec2:DescribeSubnets",
    "ec2:DescribeVpcs",
    "ecr:GetAuthorizationToken",
    "logs:CreateLogDelivery",
    "logs:DeleteLogDelivery",
    "logs:DescribeLogGroups",
    "logs:DescribeResourcePolicies",
    "logs:GetLogDelivery",
    "logs:ListLogDeliveries",
    "logs:PutResourcePolicy",
    "logs:UpdateLogDelivery",
}
"""Actions that support no permissions for single resources (Service Authorization Reference)."""
ROLES = ("processing", "training", "serving", "pipeline", "deployment", "approval")


@pytest.mark.parametrize(
    ("duty", "action", "resource", "expected"),
    [
        ("processing", "s3:GetObject", f"{FILES}/raw/mias/mdb001.pgm", True),
        ("processing", "s3:PutObject", f"{RUN}/prepared/images/test/a.png", True),
        ("processing", "s3:GetObject", f"{RUN}/models/alexnet/model.tar.gz", True),
        ("processing", "s3:PutObject", f"{FILES}/raw/mias/mdb001.pgm", False),
        ("processing", "s3:DeleteObject", f"{RUN}/prepared/manifest.csv", False),
        ("training", "s3:GetObject", f"{RUN}/data_segmentation/images/train/a.png", True),
        ("training", "s3:GetObject", f"{RUN}/data_segmentation/images/validation/a.png", True),
        ("training", "s3:GetObject", f"{RUN}/data_segmentation/manifest.csv", True),
        ("training", "s3:GetObject", f"{RUN}/data_segmentation/stage.json", True),
        ("training", "s3:GetObject", f"{FILES}/weights/alexnet.pth", True),
        ("training", "s3:GetObject", f"{RUN}/model/model.tar.gz", True),
        ("training", "s3:GetObject", f"{RUN}/evaluation/evaluation.json", False),
        ("processing", "s3:GetObject", f"{FILES}/weights/alexnet.pth", True),
        ("processing", "s3:PutObject", f"{FILES}/weights/alexnet.pth", False),
        ("training", "s3:PutObject", f"{RUN}/models/alexnet/job/output/model.tar.gz", True),
        ("training", "s3:PutObject", f"{FILES}/checkpoints/alexnet/last.pt", True),
        ("training", "s3:GetObject", f"{RUN}/data_segmentation/images/test/a.png", False),
        ("training", "s3:GetObject", f"{RUN}/prepared/images/test/a.png", False),
        ("training", "s3:GetObject", f"{FILES}/raw/mias/mdb001.pgm", False),
        ("training", "s3:PutObject", f"{RUN}/evaluation/evaluation.json", False),
        ("serving", "s3:GetObject", f"{RUN}/model/model.tar.gz", True),
        ("serving", "s3:PutObject", f"{FILES}/async/mammopipe/output/answer.json", True),
        ("serving", "s3:PutObject", f"{FILES}/capture/mammopipe/a.jsonl", True),
        ("serving", "s3:GetObject", f"{FILES}/raw/mias/mdb001.pgm", False),
        ("serving", "s3:GetObject", f"{FILES}/capture/mammopipe/a.jsonl", False),
        ("serving", "s3:PutObject", f"{RUN}/model/model.tar.gz", False),
        ("serving", "sagemaker:CreateEndpoint", f"{SAGEMAKER}:endpoint/mammopipe", False),
        ("pipeline", "sagemaker:CreateTrainingJob", f"{SAGEMAKER}:training-job/pipelines-abc-Train", True),
        ("pipeline", "sagemaker:CreateTrainingJob", f"{SAGEMAKER}:training-job/of-someone-else", False),
        ("pipeline", "sagemaker:UpdateEndpoint", f"{SAGEMAKER}:endpoint/mammopipe-candidate", True),
        ("pipeline", "sagemaker:UpdateEndpoint", f"{SAGEMAKER}:endpoint/mammopipe", False),
        ("pipeline", "sagemaker:CreateEndpoint", f"{SAGEMAKER}:endpoint/mammopipe", False),
        ("deployment", "sagemaker:UpdateEndpoint", f"{SAGEMAKER}:endpoint/mammopipe", True),
        ("deployment", "sagemaker:UpdateEndpoint", f"{SAGEMAKER}:endpoint/mammopipe-candidate", False),
        ("deployment", "sagemaker:DeleteEndpoint", f"{SAGEMAKER}:endpoint/mammopipe", False),
        ("deployment", "sagemaker:DeleteEndpoint", f"{SAGEMAKER}:endpoint/mammopipe-candidate", True),
        ("pipeline", "sagemaker:UpdateEndpoint", f"{SAGEMAKER}:endpoint/of-someone-else", False),
        ("pipeline", "s3:GetObject", f"{RUN}/evaluation/evaluation.json", True),
        ("pipeline", "s3:GetObject", f"{RUN}/prepared/images/test/a.png", False),
        ("deployment", "sagemaker:CreateTrainingJob", f"{SAGEMAKER}:training-job/pipelines-abc-Train", False),
        ("deployment", "sagemaker:CreateModel", f"{SAGEMAKER}:model/mammopipe-uuid", True),
        ("deployment", "sagemaker:DescribeModelPackage", f"{SAGEMAKER}:model-package/mammopipe/1", True),
        ("approval", "states:StartExecution", "arn:aws:states:eu-central-1:123456789012:stateMachine:other", False),
    ],
)
def test_a_role_may_do_its_duty_and_no_more(
    account: Account, duty: str, action: str, resource: str, expected: bool
) -> None:
    assert allowed(account.role_documents(duty), action, resource) is expected


PULLS = {"processing": {"processing", "training"}, "training": {"training"}, "serving": {"serving"}}
"""The images that each duty runs: Evaluate is a processing job with the training image."""


@pytest.mark.parametrize("duty", ROLES)
def test_a_role_pulls_the_images_that_it_runs_and_no_other(account: Account, duty: str) -> None:
    for image in ("processing", "training", "serving"):
        repository = f"arn:aws:ecr:eu-central-1:123456789012:repository/mammopipe/{image}"
        may = allowed(account.role_documents(duty), "ecr:BatchGetImage", repository)
        assert may is (image in PULLS.get(duty, set())), image


@pytest.mark.parametrize("prefix", ["mammopipe/raw/mias/", "mammopipe/executions/abc/data_segmentation/images/train/"])
def test_training_lists_what_it_reads(account: Account, prefix: str) -> None:
    documents = account.role_documents("training")
    expected = "executions" in prefix
    assert allowed(documents, "s3:ListBucket", BUCKET, s3__prefix=prefix) is expected
    assert not allowed(documents, "s3:ListBucket", BUCKET), "no listing of the whole bucket"


@pytest.mark.parametrize("duty", ROLES[:5])
def test_every_role_of_files_uses_the_key_and_grants_it_to_aws_alone(account: Account, duty: str) -> None:
    documents, key = account.role_documents(duty), account.outputs["KmsKey"]
    assert allowed(documents, "kms:Decrypt", key)
    assert not allowed(documents, "kms:Decrypt", key.replace("key/", "key/0"))
    assert allowed(documents, "kms:CreateGrant", key, kms__GrantIsForAWSResource="true")
    assert not allowed(documents, "kms:CreateGrant", key, kms__GrantIsForAWSResource="false")


@pytest.mark.parametrize(
    ("duty", "passed"), [("pipeline", {"processing", "training", "serving"}), ("deployment", {"serving"})]
)
def test_roles_are_passed_to_sagemaker_alone(account: Account, duty: str, passed: set[str]) -> None:
    documents = account.role_documents(duty)
    for other in ROLES:
        arn = f"arn:aws:iam::123456789012:role/mammopipe-{other}"
        assert allowed(documents, "iam:PassRole", arn, iam__PassedToService="sagemaker.amazonaws.com") is (
            other in passed
        )
        assert not allowed(documents, "iam:PassRole", arn, iam__PassedToService="ec2.amazonaws.com")


@pytest.mark.parametrize("duty", ROLES)
def test_everything_is_bound_to_a_resource_where_the_service_allows_one(account: Account, duty: str) -> None:
    for policy in account.role_documents(duty):
        for statement in listed(policy["Statement"]):
            actions = set(listed(statement["Action"]))
            assert not [action for action in actions if "*" in action]
            if "*" in listed(statement["Resource"]):
                assert actions <= WITHOUT_RESOURCE


@pytest.mark.parametrize("duty", ROLES)
def test_only_a_service_of_this_account_takes_a_role(account: Account, duty: str) -> None:
    role = account.client("iam").get_role(RoleName=f"mammopipe-{duty}")["Role"]
    (statement,) = document(role["AssumeRolePolicyDocument"])["Statement"]
    services = {"deployment": "states.amazonaws.com", "approval": "events.amazonaws.com"}
    assert statement["Principal"] == {"Service": services.get(duty, "sagemaker.amazonaws.com")}
    assert statement["Condition"] == {"StringEquals": {"aws:SourceAccount": "123456789012"}}


def test_a_clinical_client_asks_the_approved_endpoint_and_nothing_else(account: Account) -> None:
    policy = account.template.resources("AWS::IAM::ManagedPolicy")["ClientPolicy"]["PolicyDocument"]
    for name, expected in (("mammopipe", True), ("mammopipe-async", True), ("mammopipe-candidate", False)):
        assert allowed([policy], "sagemaker:InvokeEndpoint", f"{SAGEMAKER}:endpoint/{name}") is expected
    assert allowed([policy], "s3:PutObject", f"{FILES}/async/mammopipe/input/a.dcm")
    assert allowed([policy], "s3:GetObject", f"{FILES}/async/mammopipe/output/a.out")
    assert not allowed([policy], "s3:GetObject", f"{FILES}/async/mammopipe/input/a.dcm"), "no one else's request"
    assert not allowed([policy], "s3:GetObject", f"{FILES}/raw/mias/mdb001.pgm")
    assert not allowed([policy], "sagemaker:DeleteEndpoint", f"{SAGEMAKER}:endpoint/mammopipe")


def test_an_operator_runs_approves_and_deletes_but_becomes_no_other_role(account: Account) -> None:
    policy = account.template.resources("AWS::IAM::ManagedPolicy")["OperatorPolicy"]["PolicyDocument"]
    assert allowed([policy], "sagemaker:StartPipelineExecution", f"{SAGEMAKER}:pipeline/mammopipe")
    assert allowed([policy], "sagemaker:UpdateModelPackage", f"{SAGEMAKER}:model-package/mammopipe/3")
    assert allowed([policy], "sagemaker:DeleteEndpoint", f"{SAGEMAKER}:endpoint/mammopipe-candidate")
    service = {"iam__PassedToService": "sagemaker.amazonaws.com"}
    assert allowed([policy], "iam:PassRole", "arn:aws:iam::123456789012:role/mammopipe-pipeline", **service)
    assert not allowed([policy], "iam:PassRole", "arn:aws:iam::123456789012:role/mammopipe-serving", **service)
    assert not allowed([policy], "sagemaker:DeleteEndpoint", f"{SAGEMAKER}:endpoint/of-someone-else")


def test_an_operator_deletes_an_endpoint_with_its_autoscaling(account: Account) -> None:
    policy = account.template.resources("AWS::IAM::ManagedPolicy")["OperatorPolicy"]["PolicyDocument"]
    place = "eu-central-1:123456789012"
    targets = f"arn:aws:application-autoscaling:{place}:scalable-target/1"
    sagemaker = {"application-autoscaling__service-namespace": "sagemaker"}
    assert allowed([policy], "application-autoscaling:DeregisterScalableTarget", targets, **sagemaker)
    assert allowed([policy], "cloudwatch:DeleteAlarms", f"arn:aws:cloudwatch:{place}:alarm:mammopipe-async-wake")
    assert not allowed([policy], "cloudwatch:DeleteAlarms", f"arn:aws:cloudwatch:{place}:alarm:mammopipe-5xx")
    for action, kind in (("Endpoint", "endpoint"), ("EndpointConfig", "endpoint-config"), ("Model", "model")):
        assert allowed([policy], f"sagemaker:Delete{action}", f"{SAGEMAKER}:{kind}/mammopipe-7-abc")


def test_who_runs_batches_starts_those_alone_and_reads_their_files(account: Account) -> None:
    policy = account.template.resources("AWS::IAM::ManagedPolicy")["BatchPolicy"]["PolicyDocument"]
    service = {"iam__PassedToService": "sagemaker.amazonaws.com"}
    assert allowed([policy], "iam:PassRole", "arn:aws:iam::123456789012:role/mammopipe-serving", **service)
    assert not allowed([policy], "iam:PassRole", "arn:aws:iam::123456789012:role/mammopipe-pipeline", **service)
    for action in ("sagemaker:CreateModel", "sagemaker:DeleteModel"):
        assert allowed([policy], action, f"{SAGEMAKER}:model/mammopipe-batch-3-abc")
        assert not allowed([policy], action, f"{SAGEMAKER}:model/mammopipe-7-abc")
    assert allowed([policy], "sagemaker:CreateTransformJob", f"{SAGEMAKER}:transform-job/mammopipe-batch-3-abc")
    bucket = account.outputs["Bucket"]
    assert allowed([policy], "s3:GetObject", f"arn:aws:s3:::{bucket}/mammopipe/batch/today/1.dcm")
    assert not allowed([policy], "s3:GetObject", f"arn:aws:s3:::{bucket}/mammopipe/raw/mias/1.pgm")


def test_metrics_go_to_their_own_namespaces(account: Account) -> None:
    documents: list[Any] = account.role_documents("serving")
    assert allowed(documents, "cloudwatch:PutMetricData", "*", cloudwatch__namespace="/aws/sagemaker/Endpoints")
    assert not allowed(documents, "cloudwatch:PutMetricData", "*", cloudwatch__namespace="AWS/Billing")


def test_alarms_may_publish_and_plain_http_may_not(account: Account) -> None:
    (policy,) = account.template.resources("AWS::SNS::TopicPolicy").values()
    topic, documents = account.outputs["Topic"], [policy["PolicyDocument"]]
    ours = {"aws__SourceAccount": "123456789012"}
    assert allowed(documents, "sns:Publish", topic, aws__SecureTransport="true", **ours)
    assert not allowed(documents, "sns:Publish", topic, aws__SecureTransport="false", **ours)
    assert not allowed(documents, "sns:Publish", topic, aws__SecureTransport="true", aws__SourceAccount="999999999999")
