"""The compiled definition held against what AWS checks, for every way to configure a run on AWS."""

import json
import os
import socket
from collections.abc import Iterator, Mapping
from typing import Any

import botocore.session
import pytest
from botocore.validate import ParamValidator

from pipelines import PipelineConfig, build_pipeline
from pipelines.compute_config import has_local_disks
from pipelines.expressions import Scope, all_references, references, resolve, walk
from pipelines.refusals import all_steps, check
from pipelines.run_parameters import resolve_parameters
from processing.errors import ConfigError

MODEL = botocore.session.get_session().get_service_model("sagemaker")
OPERATIONS = {
    "Processing": ("CreateProcessingJob", {"ProcessingJobName": "job"}, "DescribeProcessingJob"),
    "Training": ("CreateTrainingJob", {"TrainingJobName": "job"}, "DescribeTrainingJob"),
    "Model": ("CreateModel", {"ModelName": "model"}, "DescribeModel"),
    "RegisterModel": ("CreateModelPackage", {}, "DescribeModelPackage"),
    "EndpointConfig": ("CreateEndpointConfig", {}, "DescribeEndpointConfig"),
    "Endpoint": ("CreateEndpoint", {}, "DescribeEndpoint"),
}
"""Of each step type: the call it makes, the names that Pipelines adds, and the call whose answer are its properties."""
KEY = "arn:aws:kms:eu-central-1:123456789012:key/11111111-2222-3333-4444-555555555555"
ROLE = "arn:aws:iam::123456789012:role/mammopipe-"
CLOSED: Mapping[str, Any] = {
    "role": f"{ROLE}pipeline",
    "processing_role": f"{ROLE}processing",
    "training_role": f"{ROLE}training",
    "serving_role": f"{ROLE}serving",
    "kms_key": KEY,
    "subnets": ["subnet-1111", "subnet-2222"],
    "security_groups": ["sg-1111"],
}
CONFIGURATIONS: Mapping[str, Mapping[str, Any]] = {
    "gpu": {"security": CLOSED, "compute": {"cache": "P30D"}},
    "spot": {
        "security": CLOSED,
        "compute": {"training_instance_type": "ml.p3.2xlarge", "spot": True, "cache": "P30D"},
        "endpoint": {"mode": "both"},
        "pretrained": True,
    },
    "cluster": {
        "security": CLOSED,
        "dataset": "rsna",
        "compute": {
            "processing_instance_count": 4,
            "distribution": "ShardedByS3Key",
            "training_instance_type": "ml.p3.16xlarge",
            "training_instance_count": 2,
            "keep_alive_seconds": 1800,
            "cache": "P30D",
        },
        "endpoint": {"capture_percent": 10, "rollback_alarms": ["mammopipe-5xx", "mammopipe-latency"]},
    },
    "serverless": {"security": CLOSED, "endpoint": {"mode": "serverless"}, "compute": {"cache": "P30D"}},
}


class Compiled:
    """A definition, and the requests that it stands for."""

    def __init__(self, values: Mapping[str, Any]):
        self.config = PipelineConfig.load(**values)
        self.text = build_pipeline(self.config).definition()
        self.definition = json.loads(self.text)
        self.steps = {step["Name"]: step for step in all_steps(self.definition["Steps"])}
        execution = {"PipelineExecutionId": "abcdefghijkl", "PipelineName": self.config.name}
        known = {name: properties(step) for name, step in self.steps.items() if step["Type"] in OPERATIONS}
        documents = {(name, file["PropertyFileName"]): DOCUMENTS[file["FilePath"]]
                     for name, step in self.steps.items() for file in step.get("PropertyFiles", [])}  # fmt: skip
        self.scope = Scope(resolve_parameters(self.definition, {}), execution, known, documents)

    def requests(self, *kinds: str) -> dict[str, dict[str, Any]]:
        """Return the request of every step of these types, complete."""
        return {
            name: OPERATIONS[step["Type"]][1] | resolve(step["Arguments"], self.scope)
            for name, step in self.steps.items()
            if step["Type"] in (kinds or OPERATIONS)
        }


EVALUATION = {
    "leakage": {"passed": True, "verdict": "nothing crosses"},
    "protocol": "patient",
    "protocol_verdict": "splits by patient",
    "selected": {
        "cnn": "alexnet",
        "figure": "0.5120",
        "validation": {"macro_auc": {"value": 0.512}},
        "test": {"macro_auc": {"value": 0.5}},
    },
}
DOCUMENTS = {"evaluation.json": EVALUATION, "registration.json": {"model_card": "{}"}}
"""What the jobs write, by the name of the file."""


def properties(step: Mapping[str, Any]) -> dict[str, Any]:
    """Return values of a step's properties that are shaped as the service's answer and named as the request names."""
    shape = MODEL.operation_model(OPERATIONS[step["Type"]][2]).output_shape
    made: dict[str, Any] = sample(shape)
    outputs = step["Arguments"].get("ProcessingOutputConfig", {}).get("Outputs", [])
    if outputs:
        made["ProcessingOutputConfig"]["Outputs"] = [
            {"OutputName": item["OutputName"], "S3Output": {"S3Uri": f"s3://bucket/{item['OutputName']}"}}
            for item in outputs
        ]
    return made


def sample(shape: Any, depth: int = 0) -> Any:
    """Return a value of a botocore shape: every member of a structure, nothing in lists and maps."""
    if shape.type_name == "structure":
        return {name: sample(member, depth + 1) for name, member in shape.members.items()} if depth < 5 else {}
    values: dict[str, Any] = {"list": [], "map": {}, "integer": 1, "long": 1, "float": 1.0, "boolean": True}
    return values.get(shape.type_name, f"s3://bucket/{shape.name}" if "S3" in shape.name else "a-name")


@pytest.fixture(scope="module", autouse=True)
def no_network() -> Iterator[None]:
    def refuse(*arguments: object) -> None:
        raise AssertionError(f"a connection was tried: {arguments[1:]}")

    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setattr(socket.socket, "connect", refuse)
        yield


@pytest.fixture(scope="module")
def definitions() -> dict[str, Compiled]:
    return {name: Compiled(values) for name, values in CONFIGURATIONS.items()}


@pytest.fixture(params=CONFIGURATIONS)
def compiled(request: pytest.FixtureRequest, definitions: dict[str, Compiled]) -> Compiled:
    return definitions[request.param]


def test_every_request_fits_the_services_own_model(compiled: Compiled) -> None:
    made = compiled.requests()
    assert {compiled.steps[name]["Type"] for name in made} == set(OPERATIONS)
    for name, request in made.items():
        shape = MODEL.operation_model(OPERATIONS[compiled.steps[name]["Type"]][0]).input_shape
        report = ParamValidator().validate(request, shape)
        assert not report.has_errors(), f"{name}: {report.generate_report()}"
        assert not patterns_broken(request, shape), name


def patterns_broken(value: Any, shape: Any, where: str = "") -> list[str]:
    """Return the texts that are too long, or none of the enumerated values: botocore checks neither."""
    if shape.type_name == "structure":
        return [
            fault
            for key, item in value.items()
            for fault in patterns_broken(item, shape.members[key], f"{where}.{key}")
        ]
    if shape.type_name == "list":
        return [fault for item in value for fault in patterns_broken(item, shape.member, f"{where}[]")]
    if shape.type_name == "map":
        return [fault for item in value.values() for fault in patterns_broken(item, shape.value, f"{where}{{}}")]
    if shape.type_name == "string":
        long = len(value) > shape.metadata.get("max", len(value))
        foreign = bool(shape.enum) and value not in shape.enum
        return [f"{where}={value}"] if long or foreign else []
    return []


def test_every_reference_names_a_step_and_a_property_that_its_service_returns(compiled: Compiled) -> None:
    found = [ref for step in compiled.steps.values() for ref in all_references(step) if ref.startswith("Steps.")]
    assert len(found) > 20
    for reference in found:
        _, name, path = reference.split(".", 2)
        assert name in compiled.steps, reference
        files = {item["PropertyFileName"] for item in compiled.steps[name].get("PropertyFiles", [])}
        if path.removeprefix("PropertyFiles.") not in files:
            walk(compiled.scope.steps[name], path, reference)


def test_property_files_are_files_of_an_output(compiled: Compiled) -> None:
    for step in compiled.steps.values():
        for file in step.get("PropertyFiles", []):
            outputs = [item["OutputName"] for item in step["Arguments"]["ProcessingOutputConfig"]["Outputs"]]
            assert file["OutputName"] in outputs


def test_the_graph_has_no_cycle(compiled: Compiled) -> None:
    needs = {}
    for name, step in compiled.steps.items():
        inner = ("IfSteps", "ElseSteps")
        own = {key: value for key, value in step["Arguments"].items() if key not in inner}
        needs[name] = references(own) | set(step.get("DependsOn", []))
        for branch in inner:
            for child in step["Arguments"].get(branch, []):
                needs.setdefault(child["Name"], set()).add(name)
    done: set[str] = set()
    while left := needs.keys() - done:
        ready = {name for name in left if needs[name] <= done}
        assert ready, f"a cycle among {sorted(left)}"
        done |= ready


def test_two_compiles_are_equal_to_the_byte(compiled: Compiled) -> None:
    assert build_pipeline(compiled.config).definition() == compiled.text


def test_every_job_stands_behind_its_walls_under_the_key(compiled: Compiled) -> None:
    vpc = {"Subnets": CLOSED["subnets"], "SecurityGroupIds": CLOSED["security_groups"]}
    for name, request in compiled.requests("Processing", "Training").items():
        walls = request.get("NetworkConfig", request)
        assert walls["EnableNetworkIsolation"] is walls["EnableInterContainerTrafficEncryption"] is True, name
        assert walls["VpcConfig"] == vpc, name
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
        elif step["Type"] in ("RegisterModel", "Model", "EndpointConfig"):
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


def test_a_cluster_is_kept_warm_and_shares_out_its_images(definitions: dict[str, Compiled]) -> None:
    cluster = definitions["cluster"]
    for request in cluster.requests("Training").values():
        assert request["ResourceConfig"]["InstanceCount"] == 2
        assert request["ResourceConfig"]["KeepAlivePeriodInSeconds"] == 1800
    prepare = cluster.requests()["Prepare"]
    assert prepare["ProcessingResources"]["ClusterConfig"]["InstanceCount"] == 4
    sharing = {item["InputName"]: item["S3Input"]["S3DataDistributionType"] for item in prepare["ProcessingInputs"]}
    assert sharing == {"labels": "FullyReplicated", "images": "ShardedByS3Key"}


def test_what_only_aws_carries_out_does_not_keep_it_from_running_here(compiled: Compiled) -> None:
    # Several hosts train on AWS alone.
    check(
        compiled.definition, Scope(compiled.scope.parameters | {"TrainingInstanceCount": 1}, compiled.scope.execution)
    )


@pytest.mark.parametrize(
    ("instance_type", "disks"),
    [
        ("ml.g4dn.xlarge", True),
        ("ml.g5.2xlarge", True),
        ("ml.p4d.24xlarge", True),
        ("ml.p5.48xlarge", True),
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


def test_captures_are_encrypted_and_an_update_can_go_back(definitions: dict[str, Compiled]) -> None:
    requests = definitions["cluster"].requests()
    capture = requests["EndpointConfig"]["DataCaptureConfig"]
    assert (capture["InitialSamplingPercentage"], capture["KmsKeyId"]) == (10, KEY)
    assert capture["DestinationS3Uri"] == "s3://mammopipe/mammopipe/capture/mammopipe"
    assert requests["EndpointConfig"]["KmsKeyId"] == KEY
    rollout = requests["Endpoint"]["DeploymentConfig"]
    assert [item["AlarmName"] for item in rollout["AutoRollbackConfiguration"]["Alarms"]] == [
        "mammopipe-5xx",
        "mammopipe-latency",
    ]
    longest = rollout["BlueGreenUpdatePolicy"]["MaximumExecutionTimeoutInSeconds"]
    assert longest > rollout["BlueGreenUpdatePolicy"]["TrafficRoutingConfiguration"]["WaitIntervalInSeconds"]
    assert "DataCaptureConfig" not in definitions["gpu"].requests()["EndpointConfig"]


def test_a_serverless_model_has_what_serverless_takes(definitions: dict[str, Compiled]) -> None:
    requests = definitions["serverless"].requests()
    (variant,) = requests["EndpointConfig"]["ProductionVariants"]
    assert variant["ServerlessConfig"] == {"MemorySizeInMB": 6144, "MaxConcurrency": 5}
    assert not variant.keys() & {"InstanceType", "InitialInstanceCount"}
    assert not requests["Model"].get("EnableNetworkIsolation") and "VpcConfig" not in requests["Model"]
    assert requests["Model"]["PrimaryContainer"]["Environment"]["MAMMOPIPE_MAX_BYTES"] == str(4 * 2**20)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"endpoint": {"capture_percent": 5}}, "set security.kms_key"),
        ({"endpoint": {"capture_percent": 5, "mode": "serverless"}}, "not in mode serverless"),
        ({"endpoint": {"serverless_memory_mb": 1500}}, "a multiple of 1024"),
        ({"endpoint": {"serverless_concurrency": 0}}, "1 to 200"),
        ({"endpoint": {"rollback_alarms": [f"a{number}" for number in range(11)]}}, "at most 10"),
        ({"compute": {"spot": True, "keep_alive_seconds": 60}}, "keeps no spot instances warm"),
        ({"compute": {"keep_alive_seconds": 30_000}}, "0 to 21600"),
        ({"security": {"training_role": "admin"}}, "security.training_role='admin'"),
    ],
)
def test_what_aws_would_refuse_is_refused_before(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PipelineConfig.load(**values)
