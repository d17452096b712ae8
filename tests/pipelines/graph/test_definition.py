"""The compiled definition, as AWS would see it; nothing here reaches a network or needs credentials."""

import json
import re
from typing import Any

import botocore.session
import pytest
from botocore.validate import ParamValidator

from mammopipe.pipelines import PipelineConfig, build_pipeline
from mammopipe.pipelines.backends.expressions import references
from mammopipe.pipelines.backends.supported import check, own_arguments
from tests.pipelines.graph.local_definitions import CONFIGURATIONS, OPERATIONS, filled, requests, steps_of

pytestmark = pytest.mark.usefixtures("no_network")


@pytest.fixture(scope="module", params=CONFIGURATIONS)
def compiled(request: pytest.FixtureRequest, no_network: None) -> dict[str, Any]:
    config = PipelineConfig.load(**CONFIGURATIONS[request.param])
    return dict(json.loads(build_pipeline(config).definition()))


def test_two_compiles_give_the_same_bytes() -> None:
    config = PipelineConfig()
    assert build_pipeline(config).definition() == build_pipeline(config).definition()


def test_every_request_is_what_the_service_takes(compiled: dict[str, Any]) -> None:
    model = botocore.session.Session().get_service_model("sagemaker")
    seen = set()
    for step, request in requests(compiled):
        if step["Type"] in OPERATIONS:
            shape = model.operation_model(OPERATIONS[step["Type"]][0]).input_shape
            report = ParamValidator().validate(request, shape)
            assert not report.has_errors(), f"{step['Name']}: {report.generate_report()}"
            seen.add(step["Type"])
    assert seen >= {"Processing", "Training", "RegisterModel"}


def test_nothing_but_strings_reaches_a_container(compiled: dict[str, Any]) -> None:
    for _, request in requests(compiled):
        words = request.get("AppSpecification", {}).get("ContainerArguments", [])
        assert all(type(word) is str for word in [*words, *request.get("HyperParameters", {}).values()])


def test_the_process_backend_runs_every_step(compiled: dict[str, Any]) -> None:
    check(compiled, filled(compiled))


def test_every_reference_leads_to_a_step_and_there_is_no_cycle(compiled: dict[str, Any]) -> None:
    steps, done = steps_of(compiled), set[str]()
    for name, step in steps.items():
        assert references(own_arguments(step)) | set(step.get("DependsOn", [])) <= done, (
            f"{name} needs a step that comes later"
        )
        done.add(name)


def test_training_depends_on_segment_alone_and_never_sees_the_test_split(compiled: dict[str, Any]) -> None:
    trainings = [step for step in steps_of(compiled).values() if step["Type"] == "Training"]
    assert trainings
    for step in trainings:
        assert references(step["Arguments"]) == {"Segment"}
        assert all(name.startswith("Train-") for name in step.get("DependsOn", [])), "only jobs over the limit wait"
        text = json.dumps(step["Arguments"])
        assert "images/train/" in text and "images/validation/" in text
        assert "images/test" not in text


def test_each_candidate_is_evaluated() -> None:
    compiled = json.loads(build_pipeline(PipelineConfig()).definition())
    names = {name for name in steps_of(compiled) if name.startswith("Train-")}
    assert names == {"Train-modified-cnn", "Train-alexnet", "Train-resnet50"}
    assert references(steps_of(compiled)["Evaluate"]["Arguments"]) == {"Segment", *names}


def test_outputs_lie_under_the_execution_and_checkpoints_do_not(compiled: dict[str, Any]) -> None:
    for _, request in requests(compiled):
        for output in request.get("ProcessingOutputConfig", {}).get("Outputs", []):
            if output["OutputName"] == "test-reads":
                assert output["S3Output"]["S3Uri"].endswith(("/test-reads/mias", "/test-reads/rsna")), (
                    "the register outlives the execution"
                )
                continue
            assert "/executions/abcdefghijkl/" in output["S3Output"]["S3Uri"]
        if "OutputDataConfig" in request:
            assert "/executions/abcdefghijkl/models/" in request["OutputDataConfig"]["S3OutputPath"]
            # The folder is named by the settings and by the job that wrote the images.
            place = request["CheckpointConfig"]["S3Uri"]
            assert re.fullmatch(
                r"s3://[\w/-]+/checkpoints/\w+/[0-9a-f]{12}-\d+-\d+-ml\.[\w.]+-\d+(-\w+)?/[\w-]+", place
            ), place


def test_prepare_reads_the_weights_first_so_that_missing_ones_fail_before_anything_is_paid() -> None:
    for values in ({"pretrained": True}, {"init": "s3://bucket/executions/a/model/model.tar.gz"}, {}):
        compiled = json.loads(build_pipeline(PipelineConfig.load(cnns=["alexnet"], **values)).definition())
        found = {step["Name"]: request for step, request in requests(compiled)}
        prepared = {item["InputName"]: item["S3Input"] for item in found["Prepare"]["ProcessingInputs"]}
        trained = {
            item["ChannelName"]: item["DataSource"]["S3DataSource"]["S3Uri"]
            for item in found["Train-alexnet"]["InputDataConfig"]
        }
        assert ("weights" in prepared) is ("weights" in trained) is bool(values)
        if values:
            assert prepared["weights"]["S3Uri"] == trained["weights"]
            assert prepared["weights"]["S3DataDistributionType"] == "FullyReplicated", "each instance looks"


def test_prepare_opens_the_register_that_evaluate_reads(compiled: dict[str, Any]) -> None:
    steps = {step["Name"]: request for step, request in requests(compiled)}
    outputs = {item["OutputName"]: item["S3Output"] for item in steps["Prepare"]["ProcessingOutputConfig"]["Outputs"]}
    inputs = {item["InputName"]: item["S3Input"] for item in steps["Evaluate"]["ProcessingInputs"]}
    assert inputs["test-reads"]["S3Uri"] == f"{outputs['test-reads']['S3Uri']}/", "whoever starts the pipeline"
    assert outputs["test-reads"]["LocalPath"] == "/opt/ml/processing/output/test-reads"


def test_every_job_is_isolated_limited_tagged_and_retried(compiled: dict[str, Any]) -> None:
    for step, request in requests(compiled):
        if step["Type"] not in ("Processing", "Training"):
            continue
        assert request["StoppingCondition"]["MaxRuntimeInSeconds"] > 0
        assert request["Tags"] and step["RetryPolicies"]
        network = request.get("NetworkConfig", request)
        assert network["EnableNetworkIsolation"] and network["EnableInterContainerTrafficEncryption"]


def test_without_an_endpoint_the_run_ends_at_the_registry() -> None:
    compiled = json.loads(build_pipeline(PipelineConfig.load(**CONFIGURATIONS["no endpoint"])).definition())
    gate = steps_of(compiled)["Gate"]["Arguments"]
    assert [step["Name"] for step in gate["IfSteps"]] == ["Register"]
    assert [step["Name"] for step in gate["ElseSteps"]] == ["Fail"]


def test_the_metric_definitions_read_the_line_that_train_prints() -> None:
    line = (
        "epoch=1 train_loss=1.0873 validation_loss=1.0512 validation_macro_auc=0.5731 "
        "validation_balanced_accuracy=0.3910 validation_choice=0.6120 learning_rate=0.00030 seconds=12.3"
    )
    compiled = json.loads(build_pipeline(PipelineConfig()).definition())
    definitions = steps_of(compiled)["Train-alexnet"]["Arguments"]["AlgorithmSpecification"]["MetricDefinitions"]
    found = {item["Name"]: re.findall(item["Regex"], line) for item in definitions}
    assert found == {
        "train_loss": ["1.0873"],
        "validation_loss": ["1.0512"],
        "validation_macro_auc": ["0.5731"],
        "validation_balanced_accuracy": ["0.3910"],
        "validation_choice": ["0.6120"],
        "learning_rate": ["0.00030"],
        "seconds": ["12.3"],
        "best_validation_macro_auc": [],
        "best_validation_choice": [],
    }
    last = "best_epoch=1 best_validation_macro_auc=0.5731 best_validation_choice=0.61 model=/opt/ml/model"
    read = {item["Name"]: re.findall(item["Regex"], last) for item in definitions}
    assert {name: values for name, values in read.items() if values} == {
        "best_validation_macro_auc": ["0.5731"],
        "best_validation_choice": ["0.61"],
    }
