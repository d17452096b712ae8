"""A pipeline that AWS would refuse is refused at compile time, by the service's own model or by further rules."""

import contextlib
import copy
import itertools
import re
from collections.abc import Callable
from typing import Any

import pytest

from mammopipe.pipelines import PipelineConfig, build_pipeline
from mammopipe.pipelines.config.compute import gpus_of, require_known_processors
from mammopipe.pipelines.graph import aws_rules
from mammopipe.pipelines.graph.aws_rules import check, check_run
from mammopipe.pipelines.graph.parameters import resolve_parameters
from mammopipe.pipelines.graph.requests import service_model
from mammopipe.processing.errors import ConfigError
from mammopipe.training.model.architecture import Cnn
from tests.pipelines.compiled import CLOSED, Compiled

pytestmark = pytest.mark.usefixtures("no_network")


@pytest.fixture(scope="module")
def plain(no_network: None) -> Compiled:
    return Compiled({"cnns": ["alexnet"], "security": CLOSED, "endpoint": {"mode": "both"}, "pretrained": True})


def step(definition: dict[str, Any], name: str) -> Any:
    branches = [item for item in definition["Steps"] if item["Name"] == "Gate"][0]["Arguments"]["IfSteps"]
    return next(item for item in [*definition["Steps"], *branches] if item["Name"] == name)["Arguments"]


def processing(definition: dict[str, Any]) -> Any:
    return step(definition, "Prepare")


def training(definition: dict[str, Any]) -> Any:
    return step(definition, "Train-alexnet")


FAULTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "an empty image": (lambda d: processing(d)["AppSpecification"].update(ImageUri=""), "must be the name of an image"),
    "a long argument": (
        lambda d: processing(d)["AppSpecification"]["ContainerArguments"].append("a" * 257),
        "at most 256",
    ),
    "an argument with a hyphen": (
        lambda d: processing(d)["AppSpecification"]["ContainerArguments"].extend(["--name", "-x"]),
        "must not begin with a hyphen",
    ),
    "nine days and more": (
        lambda d: processing(d)["StoppingCondition"].update(MaxRuntimeInSeconds=777_601),
        "at most 777600",
    ),
    "no time": (lambda d: processing(d)["StoppingCondition"].update(MaxRuntimeInSeconds=0), "at least 1|valid min"),
    "28 days and more": (
        lambda d: training(d)["StoppingCondition"].update(MaxRuntimeInSeconds=28 * 86400 + 1),
        "28 days",
    ),
    "waiting without spot": (
        lambda d: training(d)["StoppingCondition"].update(MaxWaitTimeInSeconds=10**6),
        "must be set with managed spot training",
    ),
    "spot without waiting": (lambda d: training(d).update(EnableManagedSpotTraining=True), "managed spot training"),
    "a large disk": (
        lambda d: processing(d)["ProcessingResources"]["ClusterConfig"].update(VolumeSizeInGB=16_385),
        "at most 16384",
    ),
    "a large training disk": (lambda d: training(d)["ResourceConfig"].update(VolumeSizeInGB=20_000), "at most 16384"),
    "many instances": (
        lambda d: processing(d)["ProcessingResources"]["ClusterConfig"].update(InstanceCount=101),
        "at most 100",
    ),
    "no training instance": (lambda d: training(d)["ResourceConfig"].update(InstanceCount=0), "at least 1"),
    "51 tags": (
        lambda d: training(d).update(Tags=[{"Key": str(n), "Value": "v"} for n in range(51)]),
        "at most 50",
    ),
    "17 subnets": (
        lambda d: training(d)["VpcConfig"].update(Subnets=[f"subnet-{n}" for n in range(17)]),
        "at most 16",
    ),
    "6 groups": (
        lambda d: training(d)["VpcConfig"].update(SecurityGroupIds=[f"sg-{n}" for n in range(6)]),
        "at most 5",
    ),
    "a key with a space": (
        lambda d: processing(d)["ProcessingOutputConfig"].update(KmsKeyId="my key"),
        "must match",
    ),
    "an alias for a volume": (
        lambda d: processing(d)["ProcessingResources"]["ClusterConfig"].update(VolumeKmsKeyId="alias/a"),
        "an alias is not allowed",
    ),
    "an unknown instance type": (
        lambda d: training(d)["ResourceConfig"].update(InstanceType="ml.g5.huge"),
        "SageMaker does not know this value",
    ),
    "a type that processing has not": (
        lambda d: processing(d)["ProcessingResources"]["ClusterConfig"].update(InstanceType="ml.trn1.2xlarge"),
        "SageMaker does not know this value",
    ),
    "a key for local disks": (
        lambda d: training(d)["ResourceConfig"].update(VolumeKmsKeyId="1" * 8, InstanceType="ml.p5.48xlarge"),
        "ml.p5.48xlarge has local disks",
    ),
    "a volume beyond the local disks": (
        lambda d: training(d)["ResourceConfig"].update(VolumeSizeInGB=251, InstanceType="ml.g5.xlarge"),
        "ml.g5.xlarge has 250 GB of local disks",
    ),
    "a processing volume beyond the local disks": (
        lambda d: processing(d)["ProcessingResources"]["ClusterConfig"].update(
            VolumeSizeInGB=76, InstanceType="ml.r5d.large", VolumeKmsKeyId=None
        ),
        "ml.r5d.large has 75 GB of local disks|VolumeKmsKeyId",
    ),
    "a tag of AWS's own": (
        lambda d: processing(d).update(Tags=[{"Key": "AWS:project", "Value": "v"}]),
        "reserves the prefix aws:",
    ),
    "a role that is none": (lambda d: training(d).update(RoleArn="arn:aws:iam::1:role/x" + "y" * 9), "must match"),
    "eleven inputs": (
        lambda d: processing(d).update(ProcessingInputs=[processing(d)["ProcessingInputs"][0]] * 11),
        "at most 10",
    ),
    "a member that is none": (lambda d: training(d).update(Cheap=True), "Cheap"),
    "a long name of a configuration": (
        lambda d: step(d, "EndpointConfig").update(EndpointConfigName="e" * 60),
        "adds a suffix",
    ),
    "a key for serverless": (
        lambda d: step(d, "EndpointConfig")["ProductionVariants"][0].update(
            ServerlessConfig={"MemorySizeInMB": 2048, "MaxConcurrency": 1}
        ),
        "serverless endpoints do not support it",
    ),
    "JsonGet in Register": (
        lambda d: step(d, "Register")["CustomerMetadataProperties"].update(
            auc={"Std:JsonGet": {"PropertyFile": {"Get": "Steps.Evaluate.PropertyFiles.EvaluationReport"}, "Path": "a"}}
        ),
        "only for conditions",
    ),
    "long metadata": (
        lambda d: step(d, "Register")["CustomerMetadataProperties"].update(note="n" * 300),
        "at most 256",
    ),
    "a retry of the endpoint": (
        lambda d: next(item for item in d["Steps"][-1]["Arguments"]["IfSteps"] if item["Type"] == "Endpoint").update(
            RetryPolicies=[{}]
        ),
        "supports no retry policy for a step of type Endpoint",
    ),
    "a retry of the endpoint's configuration": (
        lambda d: next(
            item for item in d["Steps"][-1]["Arguments"]["IfSteps"] if item["Type"] == "EndpointConfig"
        ).update(RetryPolicies=[{}]),
        "supports no retry policy for a step of type EndpointConfig",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_aws_would_refuse_is_refused_at_compile_time(plain: Compiled, name: str) -> None:
    definition = copy.deepcopy(plain.definition)
    change, message = FAULTS[name]
    change(definition)
    with pytest.raises(ConfigError, match=message):
        check(definition, plain.parameters)


def test_the_definition_as_it_is_passes(plain: Compiled) -> None:
    check(plain.definition, plain.parameters)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ProcessingInstanceType": "ml.m5.huge"}, "no instance type that SageMaker knows"),
        ({"ProcessingInstanceCount": 2}, "each instance would prepare every image"),
        ({"TrainingInstanceType": "ml.g5.12xlarge", "TrainingInstanceCount": 3}, "not a multiple of the 12 processes"),
        ({"TrainingInstanceType": "ml.p6e-gb200.36xlarge"}, "does not know how many GPUs it has"),
        ({"TrainingInstanceType": "ml.trn1.2xlarge"}, "its accelerators run no CUDA"),
        ({"ProcessingInstanceType": "ml.g5.xlarge"}, "has local disks, which its hardware encrypts"),
        ({"EndpointInstanceType": "m5.large"}, "no instance type that SageMaker knows"),
        ({"KmsKeyId": "a key"}, "must match"),
    ],
)
def test_a_runs_own_values_are_held_to_the_same_rules(plain: Compiled, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_run(plain.config, plain.definition, resolve_parameters(plain.definition, values))


@pytest.mark.parametrize(("values", "refused"), [(28, False), (29, True)])
def test_each_value_of_a_choice_counts_among_what_a_search_varies(values: int, refused: bool) -> None:
    ranges = {"dropout": "uniform(0,0.5)", "weight_decay": "log(1e-6,1e-2)"}
    ranges["label_smoothing"] = f"choice({','.join(f'{number / 1000:g}' for number in range(values))})"
    config = PipelineConfig.load(cnns=["alexnet"], tuning={"ranges": ranges})
    if refused:
        with pytest.raises(ConfigError, match="31 hyperparameters, counting each value of a choice as one"):
            build_pipeline(config)
    else:
        build_pipeline(config)


def test_a_slash_at_the_end_of_a_folder_is_taken_off(plain: Compiled) -> None:
    values = resolve_parameters(plain.definition, {"InputDataUri": "s3://bucket/raw/mias/"})
    assert values["InputDataUri"] == "s3://bucket/raw/mias"
    check(plain.definition, values)
    with pytest.raises(ConfigError, match="an empty folder"):
        check(plain.definition, {**values, "InputDataUri": "s3://bucket/raw/mias/"})


def test_every_pattern_of_the_services_model_is_one_that_python_reads() -> None:
    model = service_model()
    patterns = [model.shape_for(name).metadata.get("pattern") for name in model.shape_names]
    for pattern in filter(None, patterns):
        re.compile(aws_rules._python_pattern(pattern))


@pytest.mark.parametrize("kind", ["TrainingInstanceType", "ProcessingInstanceType"])
def test_every_instance_type_with_gpus_has_a_known_number_or_is_refused(kind: str) -> None:
    for name in service_model().shape_for(kind).enum:
        if name.removeprefix("ml.")[0] not in "gp":
            assert gpus_of(name) == 0, name
            continue
        with contextlib.suppress(ConfigError):
            require_known_processors(name)
            assert gpus_of(name) > 0, name


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"compute": {"processing_instance_count": 2}}, "needs compute.distribution=ShardedByS3Key"),
        (
            {"compute": {"training_instance_type": "ml.g5.48xlarge"}, "training": {"batch_size": 12}},
            "training.batch_size=12 is not a multiple of the 8 processes",
        ),
        ({"compute": {"spot": True, "max_wait_seconds": 3600}}, "is below training_max_runtime_seconds"),
        ({"data": {"patient_salt": "short"}}, "5 characters; must have at least 16"),
        ({"compute": {"training_instance_type": "ml.trn1.32xlarge"}}, "its accelerators run no CUDA"),
        ({"cnns": [*Cnn, "resnet18", "resnet26", "resnet34", "resnet101", "resnet152"]}, "cnns: 9 networks"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PipelineConfig.load(**values)


def test_a_salt_stands_in_no_request() -> None:
    salt = "-a secret of the clinic"
    text = build_pipeline(PipelineConfig.load(cnns=["alexnet"], data={"patient_salt": salt})).definition()
    assert "secret" not in text.replace("/secrets/", "") and "--patient-salt" not in text
    other = build_pipeline(PipelineConfig.load(cnns=["alexnet"], data={"patient_salt": salt + "."})).definition()
    assert other != text, "another salt makes other ids: the step cache must not take one for the other"


def test_a_quick_run_on_aws_serves_nothing_unless_it_was_told_to() -> None:
    assert not PipelineConfig.load(profile="quick").on_aws().deploy
    assert PipelineConfig.load(profile="quick", deploy_quick=True).on_aws().deploy
    assert PipelineConfig.load(profile="full").on_aws().deploy
    assert PipelineConfig.load(profile="quick").deploy, "offline it serves on this machine"


OPTIONS: dict[str, list[dict[str, Any]]] = {
    "mode": [{"endpoint": {"mode": mode}} for mode in ("realtime", "async", "both", "serverless")]
    + [{"deploy": False}],
    "network": [{"security": CLOSED}, {}],
    "compute": [
        {},
        {"compute": {"spot": True, "cache": "P30D", "training_instance_type": "ml.p3.2xlarge"}},
        {
            "compute": {
                "processing_instance_count": 4,
                "distribution": "ShardedByS3Key",
                "training_instance_type": "ml.g5.12xlarge",
                "training_instance_count": 2,
                "keep_alive_seconds": 1800,
            }
        },
        {"compute": {"processing_max_runtime_seconds": 777_600, "training_max_runtime_seconds": 2_419_200}},
    ],
}
COMBINATIONS = list(itertools.product(*OPTIONS.values()))


def test_forty_configurations_pass() -> None:
    assert len(COMBINATIONS) == 40
    for number, parts in enumerate(COMBINATIONS):
        values: dict[str, Any] = {"cnns": ["alexnet"], "pretrained": number % 2 == 0}
        for part in parts:
            values |= part
        build_pipeline(PipelineConfig.load(**values))
