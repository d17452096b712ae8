"""The stack on an emulated account, read back through each service's own API."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mammopipe.inference.monitor import NAMESPACE as DRIFT
from mammopipe.inference.monitor import REQUESTS
from mammopipe.inference.server.cloudwatch import NAMESPACE, UNITS
from mammopipe.pipelines import PipelineConfig
from mammopipe.pipelines.config.security import Duty

from .conftest import NOT_EMULATED, Account, document
from .policies import denied
from .template import STACK, load

BUCKET = "arn:aws:s3:::mammopipe-123456789012-eu-central-1"


GUIDE = STACK.parents[1] / "docs" / "how-to" / "aws.md"


def test_the_documented_command_uploads_a_template_of_this_length() -> None:
    # CloudFormation accepts 51,200 bytes in a request and 1 MB from a bucket (CloudFormation quotas).
    assert STACK.stat().st_size <= 1_000_000
    assert "--template-file infra/stack.yaml" in (text := GUIDE.read_text(encoding="utf-8"))
    assert "--s3-bucket" in text.partition("--template-file infra/stack.yaml")[2].partition("```")[0]


def test_cfn_lint_finds_nothing() -> None:
    linter = Path(sys.executable).with_name("cfn-lint")
    done = subprocess.run([linter, str(STACK)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.skipif(shutil.which("checkov") is None, reason="checkov pins other versions; install it in its own venv")
def test_checkov_finds_nothing() -> None:
    command = ["checkov", "-f", str(STACK), "--framework", "cloudformation", "--skip-download", "-o", "json"]
    summary = json.loads(subprocess.run(command, capture_output=True, text=True).stdout)["summary"]
    assert summary["failed"] == 0 and summary["passed"] > 100


def test_every_parameter_is_documented_and_has_a_default() -> None:
    for name, parameter in load()["Parameters"].items():
        assert len(parameter["Description"]) > 15 and "Default" in parameter, name


def test_every_suppressed_check_carries_its_reason() -> None:
    skips = [
        skip
        for resource in load()["Resources"].values()
        for skip in resource.get("Metadata", {}).get("checkov", {}).get("skip", [])
    ]
    assert skips and all(len(skip["comment"]) > 30 for skip in skips)


def test_yaml_aliases_are_not_used_since_cloudformation_takes_none() -> None:
    words = STACK.read_text(encoding="utf-8").split()
    assert not [word for word in words if word.startswith("&") or word.lstrip("[").startswith("*") and len(word) > 2]


def test_only_what_is_known_to_lack_emulation_was_passed_over(account: Account) -> None:
    assert account.skipped == NOT_EMULATED - {"AWS::SNS::Subscription"}


def test_the_outputs_make_a_configuration(account: Account) -> None:
    out = account.outputs
    config = PipelineConfig.load(
        storage={"bucket": out["Bucket"], "prefix": out["Prefix"]},
        security={
            "role": out["PipelineRole"],
            "processing_role": out["ProcessingRole"],
            "training_role": out["TrainingRole"],
            "serving_role": out["ServingRole"],
            "kms_key": out["KmsKey"],
            "subnets": out["Subnets"].split(","),
            "security_groups": [out["SecurityGroup"]],
        },
        images={name: f"{out[f'{name.title()}Image']}:tag" for name in ("processing", "training", "serving")},
        registry={"group": out["PackageGroup"]},
        endpoint={"name": out["EndpointName"], "rollback_alarms": out["RollbackAlarms"].split(",")},
    )
    roles = [config.security.role_for(duty) for duty in Duty]
    assert roles == [out["ProcessingRole"], out["TrainingRole"], out["ServingRole"]]


@pytest.mark.parametrize("name", ["", "-logs"])
def test_buckets_are_encrypted_and_take_tls_only(account: Account, name: str) -> None:
    s3, bucket, arn = account.client("s3"), account.outputs["Bucket"] + name, BUCKET + name
    (rule,) = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    expected = ("AES256", None) if name else ("aws:kms", account.outputs["KmsKey"])
    default = rule["ApplyServerSideEncryptionByDefault"]
    assert (default["SSEAlgorithm"], default.get("KMSMasterKeyID")) == expected
    policy = stored_bucket_policy(account, "LogBucketPolicy" if name else "BucketPolicy")
    for action, resource in (("s3:GetObject", f"{arn}/key"), ("s3:PutObject", f"{arn}/key"), ("s3:ListBucket", arn)):
        assert denied(policy, action, resource, aws__SecureTransport="false", s3__TlsVersion="1.2")
        assert not denied(policy, action, resource, aws__SecureTransport="true", s3__TlsVersion="1.2")


def test_the_bucket_refuses_old_tls_and_other_encryption(account: Account) -> None:
    policy = stored_bucket_policy(account, "BucketPolicy")
    safe = {"aws__SecureTransport": "true", "s3__TlsVersion": "1.3"}
    assert denied(policy, "s3:GetObject", f"{BUCKET}/k", aws__SecureTransport="true", s3__TlsVersion="1.1")
    header = "s3:x-amz-server-side-encryption"
    assert denied(policy, "s3:PutObject", f"{BUCKET}/k", **safe, **{header: "AES256"})
    assert not denied(policy, "s3:PutObject", f"{BUCKET}/k", **safe, **{header: "aws:kms"})
    assert not denied(policy, "s3:PutObject", f"{BUCKET}/k", **safe), "the bucket's own key is used then"


def stored_bucket_policy(account: Account, name: str) -> dict[str, Any]:
    properties = account.template.resources("AWS::S3::BucketPolicy")[name]
    s3 = account.client("s3")
    s3.put_bucket_policy(Bucket=properties["Bucket"], Policy=json.dumps(properties["PolicyDocument"]))
    return dict(json.loads(s3.get_bucket_policy(Bucket=properties["Bucket"])["Policy"]))


def test_buckets_are_versioned_closed_and_kept(account: Account) -> None:
    buckets = account.template.resources("AWS::S3::Bucket")
    assert len(buckets) == 2
    for name, bucket in buckets.items():
        assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
        assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
        assert len(bucket["PublicAccessBlockConfiguration"]) == 4
        assert load()["Resources"][name]["DeletionPolicy"] == "Retain"


def test_executions_are_archived_and_never_expire_since_models_lie_there(account: Account) -> None:
    rules = account.template.resources("AWS::S3::Bucket")["Bucket"]["LifecycleConfiguration"]["Rules"]
    by_prefix = {rule.get("Prefix", ""): rule for rule in rules}
    executions = by_prefix["mammopipe/executions/"]
    assert executions["Transitions"] == [{"StorageClass": "GLACIER_IR", "TransitionInDays": 90}]
    assert "ExpirationInDays" not in executions and "ExpirationInDays" not in by_prefix[""]
    for folder in ("checkpoints", "capture", "async"):
        assert by_prefix[f"mammopipe/{folder}/"]["ExpirationInDays"] in (30, 90)
    logs = account.template.resources("AWS::S3::Bucket")["LogBucket"]["LifecycleConfiguration"]["Rules"]
    assert logs[0]["ExpirationInDays"] == 365


def test_repositories_are_immutable_scanned_and_encrypted(account: Account) -> None:
    found = account.client("ecr").describe_repositories()["repositories"]
    assert {item["repositoryName"] for item in found} == {f"mammopipe/{duty}" for duty in DUTIES}
    for item in found:
        assert item["imageTagMutability"] == "IMMUTABLE"
    for item in account.template.resources("AWS::ECR::Repository").values():
        assert item["ImageScanningConfiguration"] == {"ScanOnPush": True}
        assert item["EncryptionConfiguration"] == {"EncryptionType": "KMS", "KmsKey": account.outputs["KmsKey"]}


DUTIES = ("processing", "training", "serving")


def test_the_key_rotates_and_only_services_of_this_account_use_it(account: Account) -> None:
    kms, key = account.client("kms"), account.outputs["KmsKey"]
    assert kms.get_key_rotation_status(KeyId=key)["KeyRotationEnabled"]
    policy = document(kms.get_key_policy(KeyId=key, PolicyName="default")["Policy"])
    services = [item for item in policy["Statement"] if "Service" in item["Principal"]]
    assert services and all("Condition" in item for item in services)
    assert {item["AliasName"] for item in kms.list_aliases()["Aliases"]} >= {"alias/mammopipe"}


def test_the_network_has_no_way_out_but_doors_to_aws(account: Account) -> None:
    ec2 = account.client("ec2")
    subnets = ec2.describe_subnets(SubnetIds=account.outputs["Subnets"].split(","))["Subnets"]
    (vpc,) = {item["VpcId"] for item in subnets}
    assert len({item["AvailabilityZone"] for item in subnets}) == 2
    of_vpc = [{"Name": "vpc-id", "Values": [vpc]}]
    routes = [route for table in ec2.describe_route_tables(Filters=of_vpc)["RouteTables"] for route in table["Routes"]]
    assert {route["GatewayId"] for route in routes if "DestinationCidrBlock" in route} == {"local"}
    assert not ec2.describe_internet_gateways(Filters=[{"Name": "attachment.vpc-id", "Values": [vpc]}])[
        "InternetGateways"
    ]
    doors = ec2.describe_vpc_endpoints(Filters=of_vpc)["VpcEndpoints"]
    services = {item["ServiceName"].removeprefix("com.amazonaws.eu-central-1.") for item in doors}
    assert services == {
        "s3", "logs", "monitoring", "kms", "sts", "ecr.api", "ecr.dkr", "sagemaker.api", "sagemaker.runtime"
    }  # fmt: skip
    assert ec2.describe_flow_logs(Filters=[{"Name": "resource-id", "Values": [vpc]}])["FlowLogs"]


def test_the_door_to_s3_leads_to_this_bucket_and_to_layers_alone(account: Account) -> None:
    policy = account.template.resources("AWS::EC2::VPCEndpoint")["S3Door"]["PolicyDocument"]
    resources = [item for statement in policy["Statement"] for item in statement_resources(statement)]
    assert resources == [BUCKET, f"{BUCKET}/*", "arn:aws:s3:::prod-eu-central-1-starport-layer-bucket/*"]


def statement_resources(statement: dict[str, Any]) -> list[str]:
    value = statement["Resource"]
    return value if isinstance(value, list) else [value]


def test_hosts_of_one_job_reach_each_other_by_any_protocol(account: Account) -> None:
    group = account.outputs["SecurityGroup"]
    (found,) = account.client("ec2").describe_security_groups(GroupIds=[group])["SecurityGroups"]
    (inward,) = found["IpPermissions"]
    assert inward["IpProtocol"] == "-1" and inward["UserIdGroupPairs"][0]["GroupId"] == group
    outward = account.template.resources("AWS::EC2::SecurityGroupEgress")["JobToJobOut"]
    assert (outward["GroupId"], outward["DestinationSecurityGroupId"], outward["IpProtocol"]) == (group, group, "-1")


def test_logs_are_kept_for_a_while_under_the_key(account: Account) -> None:
    groups = account.client("logs").describe_log_groups()["logGroups"]
    names = [name for kind in ("", "-candidate") for name in (f"mammopipe{kind}", f"mammopipe{kind}-async")]
    assert {f"/aws/sagemaker/Endpoints/{name}" for name in names} <= {item["logGroupName"] for item in groups}
    for item in groups:
        assert item["retentionInDays"] == 365
    described = account.template.resources("AWS::Logs::LogGroup").values()
    assert {item["KmsKeyId"] for item in described} == {account.outputs["KmsKey"]}


def test_alarms_watch_what_sagemaker_and_our_server_publish(account: Account) -> None:
    cloudwatch = account.client("cloudwatch")
    for properties in account.template.resources("AWS::CloudWatch::Alarm").values():
        cloudwatch.put_metric_alarm(**properties)
    alarms = {item["AlarmName"]: item for item in cloudwatch.describe_alarms()["MetricAlarms"]}
    names = {"mammopipe-5xx", "mammopipe-latency", "mammopipe-no-data", "mammopipe-drift", "mammopipe-input-drift"}
    names |= {"mammopipe-deployment-failed", "mammopipe-scaling-failed", "mammopipe-candidate-5xx"}
    assert alarms.keys() == names
    assert all(item["AlarmActions"] == [account.outputs["Topic"]] for item in alarms.values())
    assert set(account.outputs["RollbackAlarms"].split(",")) <= alarms.keys()
    drift = [item["MetricStat"]["Metric"] for item in alarms["mammopipe-drift"]["Metrics"] if "MetricStat" in item]
    assert {(item["Namespace"], item["MetricName"] in UNITS) for item in drift} == {(NAMESPACE, True)}
    assert alarms["mammopipe-no-data"]["TreatMissingData"] == "breaching"


def test_silence_is_not_watched_where_hours_are_none(aws: None, account: Account) -> None:
    quiet = type(account.template)({"QuietHours": 0}, account.template.names)
    assert "SilenceAlarm" not in quiet.resources("AWS::CloudWatch::Alarm")


def test_a_monitor_that_is_silent_is_told_where_days_are_given(aws: None, account: Account) -> None:
    watched = type(account.template)({"MonitorDays": 7}, account.template.names)
    (alarm,) = [
        item
        for item in watched.resources("AWS::CloudWatch::Alarm").values()
        if item["AlarmName"] == "mammopipe-no-monitor"
    ]
    cloudwatch = account.client("cloudwatch")
    cloudwatch.put_metric_alarm(**alarm)
    assert (alarm["Namespace"], alarm["MetricName"], alarm["Statistic"]) == (DRIFT, REQUESTS, "SampleCount")
    assert alarm["TreatMissingData"] == "breaching" and alarm["EvaluationPeriods"] == 7
    # CloudWatch accepts no alarm that looks back further.
    assert alarm["Period"] * alarm["EvaluationPeriods"] <= 7 * 24 * 3600


def test_the_registry_and_the_budget_are_accepted_by_their_services(account: Account) -> None:
    (group,) = account.template.resources("AWS::SageMaker::ModelPackageGroup").values()
    account.client("sagemaker").create_model_package_group(**group)
    (budget,) = account.template.resources("AWS::Budgets::Budget").values()
    limit = {key: str(value) for key, value in budget["Budget"].pop("BudgetLimit").items()}
    account.client("budgets").create_budget(
        AccountId="123456789012", Budget=budget["Budget"] | {"BudgetLimit": limit}, **{
            key: value for key, value in budget.items() if key != "Budget"
        }
    )  # fmt: skip
    (found,) = account.client("budgets").describe_budgets(AccountId="123456789012")["Budgets"]
    assert found["CostFilters"] == {"TagKeyValue": ["user:project$mammopipe"]}
    assert found["BudgetLimit"]["Amount"] == "200"


def test_in_a_given_vpc_nothing_of_a_network_is_made_but_the_group(aws: None, account: Account) -> None:
    ec2 = account.client("ec2")
    subnets = account.outputs["Subnets"]
    (vpc,) = {item["VpcId"] for item in ec2.describe_subnets(SubnetIds=subnets.split(","))["Subnets"]}
    given = type(account.template)({"VpcId": vpc, "SubnetIds": subnets.split(",")}, account.template.names)
    made = [kind for kind in ("VPC", "Subnet", "RouteTable", "VPCEndpoint") if given.resources(f"AWS::EC2::{kind}")]
    assert not made
    groups = given.resources("AWS::EC2::SecurityGroup")
    assert list(groups) == ["JobGroup"] and groups["JobGroup"]["VpcId"] == vpc
    machine = given.resources("AWS::StepFunctions::StateMachine")["Deployment"]["DefinitionString"]
    states = json.loads(machine)["States"]["Each"]["ItemProcessor"]["States"]
    model = states["ModelInVpc"]["Parameters"]
    assert model["VpcConfig"]["Subnets"] == subnets.split(",")
