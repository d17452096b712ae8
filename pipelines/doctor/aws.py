"""`mammopipe doctor --aws`: finds problems in an AWS account that would make a run fail, before it starts.

It changes nothing and starts nothing. Each finding is one line that says what to do.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from mammopipe.pipelines.backends.sessions import PLACEHOLDER_ACCOUNT
from mammopipe.pipelines.config.endpoint import ASYNC_SUFFIX, EndpointMode
from mammopipe.pipelines.config.pipeline import PipelineConfig
from mammopipe.pipelines.config.security import Duty
from mammopipe.pipelines.data.s3 import QUICK
from mammopipe.pipelines.doctor.findings import Account, CheckResult, Severity, found_or_none
from mammopipe.pipelines.doctor.quotas import check_quotas
from mammopipe.processing.errors import ConfigError

ECR_IMAGE = re.compile(
    r"(?P<registry>\d{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(\.cn)?/(?P<repository>[^:@]+)"
    r"(:(?P<tag>[^@]+)|@(?P<digest>sha256:[0-9a-f]{64}))"
)


def examine(config: PipelineConfig, session: Any) -> list[CheckResult]:
    """Return the findings in the account of a boto3 session; without credentials, nothing else is checked."""
    try:
        identity = session.client("sts", config=QUICK).get_caller_identity()
    except (BotoCoreError, ClientError) as error:
        reason = " ".join(str(error).split())
        return [CheckResult(Severity.BLOCKS, "credentials", f"{reason}; run `aws configure` or `aws sso login`")]
    found = [CheckResult(Severity.GOOD, "credentials", f"{identity['Arn']} in {session.region_name}")]
    account = Account(config, session, identity["Account"])
    for subject, check in CHECKS.items():
        found += _guarded(subject, check, account)
    return found


def _guarded(subject: str, check: Callable[[Account], Iterator[CheckResult]], account: Account) -> list[CheckResult]:
    """Return a check's findings; the last is a warning if the caller lacks the permission for the check."""
    found = []
    try:
        for finding in check(account):
            found.append(finding)
    except ClientError as error:
        code = error.response["Error"]["Code"]
        text = f"{error.operation_name} was refused ({code}), so this was not checked; ask for that permission"
        found.append(CheckResult(Severity.WARNING, subject, text))
    except BotoCoreError as error:
        found.append(CheckResult(Severity.BLOCKS, subject, f"AWS cannot be reached: {' '.join(str(error).split())}"))
    return found


def _roles(config: PipelineConfig) -> dict[str, str]:
    """Return each role once, by the configuration key that names it."""
    security = config.security
    roles = {"security.role": security.role}
    for duty in Duty:
        if security.role_for(duty) != security.role:
            roles[f"security.{duty}_role"] = security.role_for(duty)
    return roles


def _check_roles(account: Account) -> Iterator[CheckResult]:
    iam = account.client("iam")
    for key, role in _roles(account.config).items():
        name, owner = role.rpartition("/")[2], role.split(":")[4]
        if PLACEHOLDER_ACCOUNT in role:
            yield CheckResult(Severity.BLOCKS, key, "not set; deploy infra/stack.yaml and copy its output of that name")
            continue
        if owner != account.number:
            text = f"{role} belongs to account {owner}, the credentials to {account.number}; use one account"
            yield CheckResult(Severity.BLOCKS, key, text)
            continue
        answer = found_or_none(iam.get_role, RoleName=name)
        if answer is None:
            yield CheckResult(
                Severity.BLOCKS, key, f"there is no role {name}; deploy infra/stack.yaml or correct the name"
            )
        elif "sagemaker.amazonaws.com" not in str(answer["Role"]["AssumeRolePolicyDocument"]):
            yield CheckResult(
                Severity.BLOCKS, key, f"SageMaker may not assume {name}; add it to the role's trust policy"
            )
        else:
            yield CheckResult(Severity.GOOD, key, name)


def _check_bucket(account: Account) -> Iterator[CheckResult]:
    storage, s3, here = account.config.storage, account.client("s3"), account.session.region_name
    answer = found_or_none(s3.head_bucket, Bucket=storage.bucket)
    if answer is None:
        text = f"there is no bucket {storage.bucket}; deploy infra/stack.yaml or correct storage.bucket"
        yield CheckResult(Severity.BLOCKS, "bucket", text)
        return
    # S3 returns no constraint for a bucket in us-east-1.
    region = s3.get_bucket_location(Bucket=storage.bucket)["LocationConstraint"] or "us-east-1"
    if region != here:
        text = f"{storage.bucket} is in {region}, the run in {here}; SageMaker needs both in one region"
        yield CheckResult(Severity.BLOCKS, "bucket", text)
        return
    yield CheckResult(Severity.GOOD, "bucket", storage.bucket)
    raw = f"{storage.prefix}/raw/{account.config.dataset}/"
    if not s3.list_objects_v2(Bucket=storage.bucket, Prefix=raw, MaxKeys=1).get("Contents"):
        text = f"nothing at s3://{storage.bucket}/{raw}; run `mammopipe stage {account.config.dataset} SOURCE`"
        yield CheckResult(Severity.WARNING, "dataset", text)


def _check_key(account: Account) -> Iterator[CheckResult]:
    key = account.config.security.kms_key
    if not key:
        text = "not set, so AWS's own keys encrypt the data; set security.kms_key to use your own"
        yield CheckResult(Severity.WARNING, "key", text)
    elif "alias/" in key:
        text = f"{key} is an alias, which jobs do not accept for volumes; set security.kms_key to the key's ARN"
        yield CheckResult(Severity.BLOCKS, "key", text)
    elif (answer := found_or_none(account.client("kms").describe_key, KeyId=key)) is None:
        yield CheckResult(Severity.BLOCKS, "key", f"there is no key {key}; correct security.kms_key")
    elif not answer["KeyMetadata"]["Enabled"]:
        yield CheckResult(Severity.BLOCKS, "key", f"{key} is {answer['KeyMetadata']['KeyState']}; enable it")
    else:
        yield CheckResult(Severity.GOOD, "key", key)


def _check_network(account: Account) -> Iterator[CheckResult]:
    security, ec2 = account.config.security, account.client("ec2")
    if not security.subnets:
        text = "no VPC is set; jobs run in SageMaker's own VPC, without network access"
        yield CheckResult(Severity.GOOD if security.network_isolation else Severity.WARNING, "network", text)
        return
    subnets = found_or_none(ec2.describe_subnets, SubnetIds=list(security.subnets))
    groups = found_or_none(ec2.describe_security_groups, GroupIds=list(security.security_groups))
    if subnets is None or groups is None:
        wrong = "security.subnets" if subnets is None else "security.security_groups"
        yield CheckResult(Severity.BLOCKS, "network", f"{wrong} names a resource that does not exist; correct it")
        return
    networks = {item["VpcId"] for item in [*subnets["Subnets"], *groups["SecurityGroups"]]}
    if len(networks) > 1:
        text = f"subnets and groups are in {len(networks)} VPCs ({', '.join(sorted(networks))}); use those of one VPC"
        yield CheckResult(Severity.BLOCKS, "network", text)
    else:
        yield CheckResult(Severity.GOOD, "network", networks.pop())


def _check_images(account: Account) -> Iterator[CheckResult]:
    images = account.config.images
    for name in ("processing", "training", "serving"):
        uri = getattr(images, name)
        match = ECR_IMAGE.fullmatch(uri)
        if match is None:
            text = f"{uri} is not a tagged ECR image; push it and set ACCOUNT.dkr.ecr.REGION.amazonaws.com/NAME:TAG"
            yield CheckResult(Severity.BLOCKS, f"images.{name}", text)
            continue
        wanted = {"imageTag": match["tag"]} if match["tag"] else {"imageDigest": match["digest"]}
        ecr = account.session.client("ecr", region_name=match["region"], config=QUICK)
        there = found_or_none(
            ecr.describe_images, registryId=match["registry"], repositoryName=match["repository"], imageIds=[wanted]
        )
        if there is None:
            yield CheckResult(Severity.BLOCKS, f"images.{name}", f"{uri} is not in ECR; build and push it")
        else:
            yield CheckResult(Severity.GOOD, f"images.{name}", uri)


def _check_endpoints(account: Account) -> Iterator[CheckResult]:
    """Check the run's own endpoints, and those that an approval serves."""
    config, sagemaker = account.config, account.client("sagemaker")
    for settings in (config.endpoint.candidate, config.endpoint) if config.deploy else ():
        for name in settings.names:
            yield from _check_endpoint(account, sagemaker, name, promoted=settings is config.endpoint)


def _check_endpoint(account: Account, sagemaker: Any, name: str, *, promoted: bool) -> Iterator[CheckResult]:
    config = account.config
    subject, answer = f"endpoint {name}", found_or_none(sagemaker.describe_endpoint, EndpointName=name)
    if answer is None:
        yield CheckResult(Severity.GOOD, subject, "the name is free")
        return
    tags = {item["Key"]: item["Value"] for item in sagemaker.list_tags(ResourceArn=answer["EndpointArn"])["Tags"]}
    status = answer["EndpointStatus"]
    if not config.tags.items() <= tags.items():
        text = "it lacks this project's tags, so it belongs to something else; choose another endpoint.name"
        yield CheckResult(Severity.BLOCKS, subject, text)
    elif status != "InService":
        advice = "delete it" if status in ("Failed", "OutOfService") else "wait until it is InService"
        yield CheckResult(Severity.BLOCKS, subject, f"it is {status}, which cannot be updated; {advice}")
    elif (other := _other_mode(config, sagemaker, name, answer["EndpointConfigName"])) is not None:
        text = (
            f"it serves {other}, but endpoint.mode={config.endpoint.mode}; SageMaker cannot change an endpoint's mode"
        )
        yield CheckResult(
            Severity.BLOCKS, subject, f"{text}. Delete it, or set endpoint.mode (and the stack's Mode) back"
        )
    else:
        who = "an approval" if promoted else "the run"
        yield CheckResult(Severity.GOOD, subject, f"in service; {who} will update it without downtime")


def _other_mode(config: PipelineConfig, sagemaker: Any, name: str, settings: str) -> EndpointMode | None:
    """Return how an endpoint serves, if that differs from the configuration."""
    from mammopipe.pipelines.runs.aws_rollout import mode_of

    before = mode_of(sagemaker.describe_endpoint_config(EndpointConfigName=settings))
    wanted = config.endpoint.mode
    if wanted is EndpointMode.BOTH:
        wanted = EndpointMode.ASYNC if name.endswith(ASYNC_SUFFIX) else EndpointMode.REALTIME
    return None if before is wanted else before


MOST_SIMULATED = 100
"""Number of resources in one request to `iam:SimulatePrincipalPolicy`."""


def _check_permissions(account: Account) -> Iterator[CheckResult]:
    """Ask IAM whether each role has all permissions that the compiled pipeline needs."""
    from mammopipe.pipelines.graph.definition import build_pipeline
    from mammopipe.pipelines.graph.parameters import resolve_parameters
    from mammopipe.pipelines.graph.permissions import AccountAndRegion, needed

    config, iam = account.config, account.client("iam")
    try:
        definition = json.loads(build_pipeline(config.on_aws()).definition())
    except ConfigError as error:
        yield CheckResult(Severity.BLOCKS, "pipeline", str(error))
        return
    place = AccountAndRegion(account.number, account.session.region_name, config.security.role.split(":")[1])
    groups: dict[tuple[str, str, tuple[tuple[str, str], ...]], set[str]] = {}
    for need in needed(config, definition, resolve_parameters(definition, {}), place):
        groups.setdefault((need.role, need.action, tuple(sorted(need.context.items()))), set()).add(need.resource)
    refused: dict[str, list[str]] = {}
    for (role, action, context), resources in groups.items():
        if PLACEHOLDER_ACCOUNT in role or role.split(":")[4] != account.number:
            continue
        ordered = sorted(resources)
        for start in range(0, len(ordered), MOST_SIMULATED):
            found = _simulated(iam, role, action, context, ordered[start : start + MOST_SIMULATED])
            if found is not None:
                refused.setdefault(role, []).extend(f"{action} on {resource}" for resource in found)
    for role, lacks in refused.items():
        subject = f"permissions of {role.rpartition('/')[2]}"
        if lacks:
            text = f"{len(lacks)} are missing: {'; '.join(lacks[:3])}; deploy infra/stack.yaml again"
            yield CheckResult(Severity.BLOCKS, subject, text)
        else:
            yield CheckResult(Severity.GOOD, subject, "all that this pipeline needs")


def _simulated(
    iam: Any, role: str, action: str, context: tuple[tuple[str, str], ...], resources: list[str]
) -> list[str] | None:
    """Return the resources on which a role may not perform an action; None if there is no such role."""
    entries = [
        {"ContextKeyName": key, "ContextKeyValues": [value], "ContextKeyType": "string"} for key, value in context
    ]
    answer = found_or_none(
        iam.simulate_principal_policy,
        PolicySourceArn=role,
        ActionNames=[action],
        ResourceArns=resources,
        ContextEntries=entries,
    )
    if answer is None:
        return None
    return [item["EvalResourceName"] for item in answer["EvaluationResults"] if item["EvalDecision"] != "allowed"]


def _check_alarms(account: Account) -> Iterator[CheckResult]:
    wanted = account.config.endpoint.rollback_alarms
    if not (wanted and account.config.deploy):
        return
    found = account.client("cloudwatch").describe_alarms(AlarmNames=list(wanted))["MetricAlarms"]
    missing = sorted(set(wanted) - {item["AlarmName"] for item in found})
    if missing:
        text = f"there is no {', '.join(missing)}; correct endpoint.rollback_alarms, or deploy infra/stack.yaml"
        yield CheckResult(Severity.BLOCKS, "rollback alarms", text)
    else:
        yield CheckResult(Severity.GOOD, "rollback alarms", ", ".join(wanted))


CHECKS: dict[str, Callable[[Account], Iterator[CheckResult]]] = {
    "roles": _check_roles,
    "bucket": _check_bucket,
    "key": _check_key,
    "network": _check_network,
    "images": _check_images,
    "permissions": _check_permissions,
    "quotas": check_quotas,
    "endpoint": _check_endpoints,
    "rollback alarms": _check_alarms,
}
"""All checks that need valid credentials, in this order."""
