"""Options of a run on AWS: keys, network, roles, retries, spot, clusters, captures, serverless."""

from dataclasses import replace
from typing import Any

import pytest

from mammopipe.pipelines import PipelineConfig
from mammopipe.pipelines.config.compute import has_local_disks
from mammopipe.pipelines.graph.permissions import AccountAndRegion, needed
from mammopipe.pipelines.graph.requests import resolved
from mammopipe.processing.errors import ConfigError
from tests.pipelines.compiled import CLOSED, KEY, ROLE, Compiled

pytestmark = pytest.mark.usefixtures("no_network")


def test_every_job_stands_behind_its_walls_under_the_key(compiled: Compiled) -> None:
    vpc = {"Subnets": CLOSED["subnets"], "SecurityGroupIds": CLOSED["security_groups"]}
    for name, request in compiled.requests("Processing", "Training").items():
        network = request.get("NetworkConfig", request)
        assert network["EnableNetworkIsolation"] is network["EnableInterContainerTrafficEncryption"] is True, name
        assert network["VpcConfig"] == vpc, name
        output = request.get("ProcessingOutputConfig") or request["OutputDataConfig"]
        assert output["KmsKeyId"] == KEY, name
        assert 0 < request["StoppingCondition"]["MaxRuntimeInSeconds"] <= 5 * 24 * 3600
        assert request["Tags"] == [{"Key": "project", "Value": "mammopipe"}]


def test_volumes_have_the_key_but_where_hardware_encrypts_them(definitions: dict[str, Compiled]) -> None:
    for compiled in definitions.values():
        for request in compiled.requests("Processing").values():
            assert request["ProcessingResources"]["ClusterConfig"]["VolumeKmsKeyId"] == KEY
    for name, expected in (("gpu", None), ("spot", KEY), ("cluster", KEY)):
        for request in definitions[name].requests("Training").values():
            assert request["ResourceConfig"].get("VolumeKmsKeyId") == expected


def test_every_job_is_retried_for_throttling_capacity_and_internal_errors(compiled: Compiled) -> None:
    wanted = {"Step.THROTTLING", "Step.SERVICE_FAULT", "SageMaker.CAPACITY_ERROR", "SageMaker.JOB_INTERNAL_ERROR"}
    for name, step in compiled.steps.items():
        policies = step.get("RetryPolicies", [])
        kinds = {kind for policy in policies for kind in policy["ExceptionType"]}
        if step["Type"] in ("Processing", "Training"):
            assert wanted <= kinds, name
            assert step["CacheConfig"] == {"Enabled": True, "ExpireAfter": "P30D"}
        elif step["Type"] in ("RegisterModel", "Model"):
            assert {"Step.THROTTLING", "Step.SERVICE_FAULT"} <= kinds, name
        assert all(policy.get("MaxAttempts") or policy.get("ExpireAfterMin") for policy in policies), name


def test_without_a_duration_nothing_is_cached() -> None:
    jobs = [
        step for step in Compiled({"cnns": ["alexnet"]}).steps.values() if step["Type"] in ("Processing", "Training")
    ]
    assert jobs and all(step["CacheConfig"] == {"Enabled": False} for step in jobs)


def test_each_duty_has_its_role(compiled: Compiled) -> None:
    for request in compiled.requests("Processing").values():
        assert request["RoleArn"] == f"{ROLE}processing"
    for request in compiled.requests("Training").values():
        assert request["RoleArn"] == f"{ROLE}training"
    for request in compiled.requests("Model").values():
        assert request["ExecutionRoleArn"] == f"{ROLE}serving"


def test_a_duty_without_a_role_takes_the_pipelines() -> None:
    requests = Compiled({"cnns": ["alexnet"], "security": {"role": f"{ROLE}all"}}).requests()
    assert requests["Train-alexnet"]["RoleArn"] == requests["Model"]["ExecutionRoleArn"] == f"{ROLE}all"


def test_spot_waits_and_resumes_from_checkpoints(definitions: dict[str, Compiled]) -> None:
    for request in definitions["spot"].requests("Training").values():
        limits = request["StoppingCondition"]
        assert request["EnableManagedSpotTraining"] is True
        assert limits["MaxWaitTimeInSeconds"] >= limits["MaxRuntimeInSeconds"]
        assert request["CheckpointConfig"]["LocalPath"] == "/opt/ml/checkpoints"
        assert request["CheckpointConfig"]["S3Uri"].startswith("s3://mammopipe/mammopipe/checkpoints/")
    for request in definitions["gpu"].requests("Training").values():
        assert not request.get("EnableManagedSpotTraining")
        assert "MaxWaitTimeInSeconds" not in request["StoppingCondition"], "refused by the service without spot"


def test_executions_share_checkpoints_only_if_they_train_the_same_with_as_many_processes(
    definitions: dict[str, Compiled],
) -> None:
    """All executions have the same Segment job, as when the step cache reuses it."""
    compiled = definitions["spot"]

    def places(**values: Any) -> set[str]:
        scope = replace(compiled.scope, parameters={**compiled.parameters, **values})
        asked = [item for item in resolved(compiled.definition, scope) if item.kind == "Training"]
        assert all(len(item.request["CheckpointConfig"]["S3Uri"]) <= 1024 for item in asked)
        return {item.request["CheckpointConfig"]["S3Uri"] for item in asked}

    networks = len(compiled.requests("Training"))
    first = places()
    assert first == places() and len(first) == networks
    others = [
        places(WeightsDigest="0123456789abcdef"),
        places(TrainingInstanceCount=2),
        places(TrainingInstanceType="ml.p3.16xlarge"),
        places(Epochs=7),
        places(Seed=5),
    ]
    assert len(set.union(first, *others)) == networks * (1 + len(others))


def test_a_cluster_is_kept_warm_and_shares_out_its_images(definitions: dict[str, Compiled]) -> None:
    cluster = definitions["cluster"]
    for request in cluster.requests("Training").values():
        assert request["ResourceConfig"]["InstanceCount"] == 2
        assert request["ResourceConfig"]["KeepAlivePeriodInSeconds"] == 1800
    prepare = cluster.requests()["Prepare"]
    assert prepare["ProcessingResources"]["ClusterConfig"]["InstanceCount"] == 4
    sharing = {item["InputName"]: item["S3Input"]["S3DataDistributionType"] for item in prepare["ProcessingInputs"]}
    assert sharing == {"labels": "FullyReplicated", "images": "ShardedByS3Key"}


@pytest.mark.parametrize(
    ("instance_type", "disks"),
    [
        ("ml.g4dn.xlarge", True),
        ("ml.g5.2xlarge", True),
        ("ml.p4d.24xlarge", True),
        ("ml.p5.48xlarge", True),
        ("ml.g7e.2xlarge", True),
        ("ml.p6-b200.48xlarge", True),
        ("ml.dl1.24xlarge", True),
        ("ml.c7i-flex.large", False),
        ("ml.p2.xlarge", False),
        ("ml.m5d.large", True),
        ("ml.c6id.xlarge", True),
        ("ml.m5.large", False),
        ("ml.c7g.large", False),
        ("ml.p3.2xlarge", False),
        ("ml.inf2.xlarge", False),
    ],
)
def test_instance_types_with_disks_of_their_own(instance_type: str, disks: bool) -> None:
    assert has_local_disks(instance_type) is disks


def test_captures_are_encrypted_and_a_candidate_has_no_guardrails(definitions: dict[str, Compiled]) -> None:
    requests = definitions["cluster"].requests()
    capture = requests["EndpointConfig"]["DataCaptureConfig"]
    assert (capture["InitialSamplingPercentage"], capture["KmsKeyId"]) == (10, KEY)
    assert capture["DestinationS3Uri"] == "s3://mammopipe/mammopipe/capture/mammopipe-candidate"
    assert requests["EndpointConfig"]["KmsKeyId"] == KEY
    assert requests["Endpoint"]["EndpointName"] == "mammopipe-candidate"
    assert "DeploymentConfig" not in requests["Endpoint"]
    assert "DataCaptureConfig" not in definitions["gpu"].requests()["EndpointConfig"]


def test_a_serverless_model_has_what_serverless_takes(definitions: dict[str, Compiled]) -> None:
    requests = definitions["serverless"].requests()
    (variant,) = requests["EndpointConfig"]["ProductionVariants"]
    assert variant["ServerlessConfig"] == {"MemorySizeInMB": 6144, "MaxConcurrency": 5}
    assert not variant.keys() & {"InstanceType", "InitialInstanceCount"}
    assert not requests["Model"].get("EnableNetworkIsolation") and "VpcConfig" not in requests["Model"]
    environment = requests["Model"]["PrimaryContainer"]["Environment"]
    for limit in ("MAMMOPIPE_MAX_BYTES", "MAMMOPIPE_MAX_ANSWER_BYTES"):
        assert environment[limit] == str(4 * 2**20)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"endpoint": {"capture_percent": 5}}, "set security.kms_key"),
        ({"endpoint": {"capture_percent": 5, "mode": "serverless"}}, "not possible in mode serverless"),
        ({"endpoint": {"serverless_memory_mb": 1500}}, "a multiple of 1024"),
        ({"endpoint": {"serverless_concurrency": 0}}, "between 1 and 200"),
        ({"endpoint": {"rollback_alarms": [f"a{number}" for number in range(11)]}}, "at most 10"),
        ({"compute": {"spot": True, "keep_alive_seconds": 60}}, "keeps no spot instances warm"),
        ({"compute": {"keep_alive_seconds": 30_000}}, "between 0 and 21600"),
        ({"security": {"training_role": "admin"}}, "security.training_role='admin'"),
    ],
)
def test_what_aws_would_refuse_is_refused_before(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PipelineConfig.load(**values)


def test_permissions_are_named_in_the_partition_of_the_account() -> None:
    region = "cn-north-1"
    images = {
        name: f"123456789012.dkr.ecr.{region}.amazonaws.com.cn/mammopipe/{name}:1"
        for name in ("processing", "training")
    }
    compiled = Compiled({"images": images, "cnns": ["alexnet"], "deploy": False})
    place = AccountAndRegion("123456789012", region, "aws-cn")
    needs = list(needed(compiled.config, compiled.definition, compiled.parameters, place))
    assert any(need.action == "ecr:BatchGetImage" for need in needs)
    named = [need.resource for need in needs if need.resource.startswith("arn:") and need.action != "iam:PassRole"]
    assert {resource.split(":")[1] for resource in named} == {"aws-cn"}
