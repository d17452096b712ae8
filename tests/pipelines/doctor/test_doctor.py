"""`mammopipe doctor --aws` on an emulated account, first without a problem, then with one problem at a time."""

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber
from moto import mock_aws

from mammopipe.pipelines.backends import sessions
from mammopipe.pipelines.cli import main
from mammopipe.pipelines.doctor import aws

REGION = "eu-central-1"
REGISTRY = f"123456789012.dkr.ecr.{REGION}.amazonaws.com/mammopipe"
TRUST = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}
QUOTAS = {
    "ml.m5.xlarge for processing job usage": 4,
    "ml.g4dn.xlarge for training job usage": 3,
    "ml.m5.large for endpoint usage": 4,
}
DUTIES = ("processing", "training", "serving")


@cache
def shared_client(service: str) -> Any:
    """Return a client of the emulated account, whichever it is now: a new one takes longer than what it is asked."""
    return boto3.client(service, region_name=REGION)


class Session(boto3.Session):
    """The emulated account; service quotas, which the emulator lacks, are stubbed."""

    def __init__(self, quotas: dict[str, float], forbidden: set[str]):
        super().__init__(region_name=REGION)
        self.quotas, self.forbidden = quotas, forbidden

    def client(self, service_name: str, **options: Any) -> Any:
        if service_name not in ("iam", "service-quotas"):
            return shared_client(service_name)
        client = super().client(service_name, **options)
        if service_name == "service-quotas":
            stub = Stubber(client)
            found = [{"QuotaName": name, "Value": value} for name, value in self.quotas.items()]
            stub.add_response("list_service_quotas", {"Quotas": found}, {"ServiceCode": "sagemaker"})
            stub.activate()
        if service_name == "iam":
            client.simulate_principal_policy = self.simulate
        return client

    def simulate(self, **request: Any) -> dict[str, Any]:
        """Answer as IAM would for roles that may do everything except `forbidden`; the emulator cannot simulate."""
        (action,) = request["ActionNames"]
        decision = "implicitDeny" if action in self.forbidden else "allowed"
        return {
            "EvaluationResults": [
                {"EvalActionName": action, "EvalResourceName": resource, "EvalDecision": decision}
                for resource in request["ResourceArns"]
            ]
        }


class Account:
    """An account in which a run would succeed, and the run's configuration."""

    def __init__(self, folder: Path):
        self.quotas: dict[str, float] = dict(QUOTAS)
        self.forbidden: set[str] = set()
        self.file = folder / "pipeline.toml"
        self.client = shared_client
        for duty in ("pipeline", *DUTIES):
            self.client("iam").create_role(RoleName=f"mammopipe-{duty}", AssumeRolePolicyDocument=json.dumps(TRUST))
        self.key = self.client("kms").create_key()["KeyMetadata"]["Arn"]
        ec2 = self.client("ec2")
        self.subnet = ec2.describe_subnets()["Subnets"][0]
        vpc = [{"Name": "vpc-id", "Values": [self.subnet["VpcId"]]}]
        self.group = ec2.describe_security_groups(Filters=vpc)["SecurityGroups"][0]["GroupId"]
        s3 = self.client("s3")
        s3.create_bucket(Bucket="films", CreateBucketConfiguration={"LocationConstraint": REGION})
        s3.put_object(Bucket="films", Key="mammopipe/raw/mias/Info.txt", Body=b"table")
        for name in DUTIES:
            self.client("ecr").create_repository(repositoryName=f"mammopipe/{name}")
            self.push(name, "v1")
        for name in ("mammopipe-5xx", "mammopipe-latency"):
            self.client("cloudwatch").put_metric_alarm(
                AlarmName=name, EvaluationPeriods=1, ComparisonOperator="GreaterThanThreshold", MetricName="m",
                Namespace="n", Period=60, Statistic="Sum", Threshold=1,
            )  # fmt: skip
        self.write()

    def push(self, name: str, tag: str) -> None:
        kind = "application/vnd.oci.image.manifest.v1+json"
        config = {"digest": f"sha256:{name}{tag}", "size": 1}
        manifest = {"schemaVersion": 2, "mediaType": kind, "config": config, "layers": []}
        self.client("ecr").put_image(
            repositoryName=f"mammopipe/{name}", imageManifest=json.dumps(manifest), imageTag=tag
        )

    def write(self, **changes: str) -> None:
        """Write the configuration, in which `changes` replaces the lines of its keys."""
        lines = {
            "region": f'region = "{REGION}"',
            "storage": '[storage]\nbucket = "films"',
            "security": "[security]",
            **{f"{duty}_role": f'{duty}_role = "arn:aws:iam::123456789012:role/mammopipe-{duty}"' for duty in DUTIES},
            "role": 'role = "arn:aws:iam::123456789012:role/mammopipe-pipeline"',
            "kms_key": f'kms_key = "{self.key}"',
            "subnets": f'subnets = ["{self.subnet["SubnetId"]}"]',
            "security_groups": f'security_groups = ["{self.group}"]',
            "images": "[images]\n" + "\n".join(f'{name} = "{REGISTRY}/{name}:v1"' for name in DUTIES),
            "endpoint": '[endpoint]\nrollback_alarms = ["mammopipe-5xx", "mammopipe-latency"]',
            "compute": "[compute]",
        }
        self.file.write_text("\n".join((lines | changes).values()))

    def endpoint(self, *, tags: dict[str, str]) -> None:
        sagemaker = self.client("sagemaker")
        role = "arn:aws:iam::123456789012:role/mammopipe-serving"
        sagemaker.create_model(ModelName="m", ExecutionRoleArn=role, PrimaryContainer={"Image": "i"})
        variant = {
            "VariantName": "AllTraffic", "ModelName": "m", "InstanceType": "ml.m5.large", "InitialInstanceCount": 1
        }  # fmt: skip
        sagemaker.create_endpoint_config(EndpointConfigName="c", ProductionVariants=[variant])
        listed = [{"Key": key, "Value": value} for key, value in tags.items()]
        sagemaker.create_endpoint(EndpointName="mammopipe", EndpointConfigName="c", Tags=listed)


@pytest.fixture
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "offline")
    with mock_aws():
        made = Account(tmp_path)
        monkeypatch.setattr(sessions, "caller_session", lambda config: Session(made.quotas, made.forbidden))
        yield made


def run_doctor(account: Account, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """Return the command's exit code and its lines."""
    code = main(["doctor", "--aws", "--config", str(account.file)])
    return code, capsys.readouterr().out.splitlines()


def test_a_sound_account_blocks_nothing(account: Account, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = run_doctor(account, capsys)
    assert code == 0
    assert [line for line in lines if not line.startswith("ok ")] == []
    subjects = {line.split(maxsplit=1)[1].split(":")[0] for line in lines}
    assert {"credentials", "security.role", "security.training_role", "bucket", "key", "network", "images.serving",
            "ml.g4dn.xlarge for training job usage", "endpoint mammopipe", "rollback alarms"} <= subjects  # fmt: skip


def without_role(account: Account) -> None:
    account.client("iam").delete_role(RoleName="mammopipe-training")


def without_trust(account: Account) -> None:
    policy = json.dumps(TRUST).replace("sagemaker", "ec2")
    account.client("iam").update_assume_role_policy(RoleName="mammopipe-serving", PolicyDocument=policy)


def without_bucket(account: Account) -> None:
    account.write(storage='[storage]\nbucket = "elsewhere"')


def with_a_bucket_far_away(account: Account) -> None:
    place = {"LocationConstraint": "eu-west-1"}
    boto3.client("s3", region_name="eu-west-1").create_bucket(Bucket="far", CreateBucketConfiguration=place)
    account.write(storage='[storage]\nbucket = "far"')


def without_image(account: Account) -> None:
    account.write(images="\n".join(["[images]", f'processing = "{REGISTRY}/processing:v2"']))


def without_alarm(account: Account) -> None:
    account.client("cloudwatch").delete_alarms(AlarmNames=["mammopipe-latency"])


def with_a_small_quota(account: Account) -> None:
    account.quotas["ml.g4dn.xlarge for training job usage"] = 0


def with_a_disabled_key(account: Account) -> None:
    account.client("kms").disable_key(KeyId=account.key.rpartition("/")[2])


def without_a_permission(account: Account) -> None:
    account.forbidden.add("ecr:BatchGetImage")


def with_another_mode(account: Account) -> None:
    account.endpoint(tags={"project": "mammopipe"})
    account.write(endpoint='[endpoint]\nmode = "serverless"')


def with_two_networks(account: Account) -> None:
    ec2 = account.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    group = ec2.create_security_group(GroupName="g", Description="d", VpcId=vpc)["GroupId"]
    account.write(security_groups=f'security_groups = ["{group}"]')


@pytest.mark.parametrize(
    ("harm", "subject", "advice"),
    [
        (without_role, "security.training_role", "deploy infra/stack.yaml"),
        (without_trust, "security.serving_role", "add it to the role's trust policy"),
        (lambda account: account.write(role=""), "security.role", "not set; deploy infra/stack.yaml"),
        (
            lambda account: account.write(role='role = "arn:aws:iam::999999999999:role/r"'),
            "security.role",
            "belongs to account 999999999999",
        ),
        (without_bucket, "bucket", "deploy infra/stack.yaml or correct storage.bucket"),
        (with_a_bucket_far_away, "bucket", "SageMaker needs both in one region"),
        (with_a_disabled_key, "key", "enable it"),
        (lambda account: account.write(kms_key='kms_key = "alias/mammopipe"'), "key", "to the key's ARN"),
        (
            lambda account: account.write(subnets='subnets = ["subnet-0123456789abcdef0"]'),
            "network",
            "security.subnets names a resource that does not exist",
        ),
        (with_two_networks, "network", "use those of one"),
        (without_image, "images.processing", "build and push it"),
        (without_image, "images.training", "is not a tagged ECR image"),
        (with_a_small_quota, "ml.g4dn.xlarge for training job usage", "request more"),
        (lambda account: account.endpoint(tags={"project": "other"}), "endpoint mammopipe", "another endpoint.name"),
        (without_a_permission, "permissions of mammopipe-training", "deploy infra/stack.yaml again"),
        (with_another_mode, "endpoint mammopipe", "it serves realtime, but endpoint.mode=serverless"),
        (without_alarm, "rollback alarms", "there is no mammopipe-latency"),
    ],
)
def test_what_blocks_a_run_is_one_line_with_what_to_do(
    account: Account,
    capsys: pytest.CaptureFixture[str],
    harm: Callable[[Account], None],
    subject: str,
    advice: str,
) -> None:
    harm(account)
    code, lines = run_doctor(account, capsys)
    assert code == 1
    found = [line for line in lines if line.startswith(f"blocks  {subject}: ")]
    assert len(found) == 1 and advice in found[0], lines


def test_an_endpoint_of_this_project_is_updated(account: Account, capsys: pytest.CaptureFixture[str]) -> None:
    account.endpoint(tags={"project": "mammopipe"})
    code, lines = run_doctor(account, capsys)
    assert code == 0
    assert "ok      endpoint mammopipe: in service; an approval will update it without downtime" in lines


def test_candidates_that_must_wait_for_each_other_are_a_warning(
    account: Account, capsys: pytest.CaptureFixture[str]
) -> None:
    account.quotas["ml.g4dn.xlarge for training job usage"] = 1
    account.client("s3").delete_object(Bucket="films", Key="mammopipe/raw/mias/Info.txt")
    code, lines = run_doctor(account, capsys)
    warnings = [line for line in lines if line.startswith("warning ")]
    assert code == 0 and len(warnings) == 2
    assert "run `mammopipe stage mias SOURCE`" in warnings[0]
    assert "quota 1, 3 at once" in warnings[1]


@pytest.mark.parametrize(
    ("compute", "quota"),
    [
        ("spot = true", "ml.g4dn.xlarge for spot training job usage"),
        ("keep_alive_seconds = 60", "ml.g4dn.xlarge for training warm pool usage"),
        ('processing_instance_type = "ml.c5.xlarge"', "ml.c5.xlarge for processing job usage"),
    ],
)
def test_each_way_to_run_has_its_own_quota(
    account: Account, capsys: pytest.CaptureFixture[str], compute: str, quota: str
) -> None:
    account.write(compute=f"[compute]\n{compute}")
    code, lines = run_doctor(account, capsys)
    assert code == 0
    assert [line for line in lines if line.startswith("warning ")] == [
        f"warning {quota}: no quota of that name in {REGION}; is the instance type offered there?"
    ]


def test_what_may_not_be_looked_at_is_said(
    account: Account, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Closed(Session):
        def client(self, service_name: str, **options: Any) -> Any:
            client = super().client(service_name, **options)
            if service_name == "iam":
                stub = Stubber(client)
                stub.add_client_error("get_role", "AccessDenied", "no", 403)
                stub.activate()
            return client

    monkeypatch.setattr(sessions, "caller_session", lambda config: Closed(account.quotas, account.forbidden))
    code, lines = run_doctor(account, capsys)
    assert code == 0
    refused = "warning roles: GetRole was refused (AccessDenied), so this was not checked; ask for that permission"
    assert refused in lines


def test_iam_is_asked_about_every_resource_and_nothing_is_said_of_a_missing_role(
    account: Account, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Strict(Session):
        def simulate(self, **request: Any) -> dict[str, Any]:
            assert len(request["ResourceArns"]) == 1, "more than IAM takes in one request"
            if request["PolicySourceArn"].endswith("mammopipe-training"):
                raise ClientError({"Error": {"Code": "NoSuchEntity"}}, "SimulatePrincipalPolicy")
            return super().simulate(**request)

    account.forbidden.add("s3:PutObject")
    monkeypatch.setattr(aws, "MOST_SIMULATED", 1)
    monkeypatch.setattr(sessions, "caller_session", lambda config: Strict(account.quotas, account.forbidden))
    _, lines = run_doctor(account, capsys)
    (missing,) = [line for line in lines if line.startswith("blocks  permissions of mammopipe-processing: ")]
    assert int(missing.split(": ")[1].split()[0]) > 1
    assert not [line for line in lines if "permissions of mammopipe-training" in line]


def test_without_credentials_nothing_else_is_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    assert main(["doctor", "--aws"]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("blocks  credentials: Unable to locate credentials; run `aws configure`")
