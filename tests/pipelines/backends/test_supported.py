"""The process backend refuses what it cannot run, by name and before anything starts."""

from collections.abc import Callable
from typing import Any

import pytest

from mammopipe.pipelines.backends.expressions import Scope
from mammopipe.pipelines.backends.supported import check
from mammopipe.processing.errors import ConfigError
from tests.pipelines.conftest import definition, output, processing, training

Change = Callable[[dict[str, Any]], object]


def checked(*steps: dict[str, Any], **parameters: Any) -> None:
    check(definition(*steps), Scope(parameters, {"PipelineExecutionId": "id"}))


def the_input(step: dict[str, Any]) -> dict[str, Any]:
    source: dict[str, Any] = step["Arguments"]["ProcessingInputs"][0]["S3Input"]
    return source


def the_output(step: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = step["Arguments"]["ProcessingOutputConfig"]["Outputs"][0]
    return result


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda step: step.update(Type="Lambda"), "step Make: the process backend cannot run a step of type Lambda"),
        (lambda step: step.update(Parallel=True), "step Make: the process backend cannot run the member Parallel"),
        (lambda step: the_input(step).update(S3InputMode="Pipe"), "S3InputMode=Pipe"),
        (lambda step: the_input(step).update(S3DataType="ManifestFile"), "S3DataType=ManifestFile"),
        (lambda step: the_input(step).update(Filter="x"), "ProcessingInputs.S3Input.Filter"),
        (lambda step: the_output(step).update(FeatureStoreOutput={}), "Outputs.FeatureStoreOutput"),
        (lambda step: the_output(step)["S3Output"].update(S3UploadMode="Continuous"), "S3UploadMode=Continuous"),
        (lambda step: step["Arguments"]["AppSpecification"].pop("ContainerEntrypoint"), "needs a ContainerEntrypoint"),
        (lambda step: step.update(DependsOn=["Nobody"]), "refers to 'Nobody', which is not a step"),
        (
            lambda step: step["Arguments"].update(RoleArn=output("Nobody", "o")),
            "refers to 'Nobody', which is not a step",
        ),
        (lambda step: step["Arguments"].update(RoleArn={"Get": "Nowhere.X"}), "must begin with Parameters., Exec"),
        (lambda step: step["Arguments"].update(RoleArn={"Std:Upper": "x"}), "Std:Upper"),
    ],
)
def test_processing_members_that_cannot_be_run(change: Change, message: str) -> None:
    step = processing("Make", ["python"], inputs={"i": "s3://b/i"}, outputs=["o"])
    checked(step)
    change(step)
    with pytest.raises(ConfigError, match=message):
        checked(step)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda job: job["ResourceConfig"].update(InstanceCount=2), "ResourceConfig.InstanceCount=2 cannot be run"),
        (
            lambda job: job["ResourceConfig"].update(InstanceCount={"Get": "Parameters.N"}),
            "InstanceCount=4 cannot be run",
        ),
        (lambda job: job["AlgorithmSpecification"].update(TrainingInputMode="FastFile"), "TrainingInputMode=FastFile"),
        (
            lambda job: job["AlgorithmSpecification"].update(AlgorithmName="xgboost"),
            "AlgorithmSpecification.AlgorithmName",
        ),
        (lambda job: job["InputDataConfig"][0]["DataSource"].update(FileSystemDataSource={}), "FileSystemDataSource"),
        (lambda job: job.update(DebugHookConfig={}), "Training.DebugHookConfig"),
    ],
)
def test_training_members_that_cannot_be_run(change: Change, message: str) -> None:
    step = training("Train", ["train"], inputs={"train": "s3://b/i"}, checkpoints="s3://b/c")
    checked(step, N=4)
    change(step["Arguments"])
    with pytest.raises(ConfigError, match=message):
        checked(step, N=4)


def test_steps_inside_conditions_are_checked_too() -> None:
    inner = {"Name": "Search", "Type": "AutoML", "Arguments": {}}
    gate = {"Name": "Gate", "Type": "Condition", "Arguments": {"Conditions": [], "IfSteps": [inner], "ElseSteps": []}}
    with pytest.raises(ConfigError, match="step Search"):
        checked(gate)


def test_an_unknown_condition_is_refused() -> None:
    arguments = {"Conditions": [{"Type": "Not", "Expression": {"Type": "Like"}}], "IfSteps": [], "ElseSteps": []}
    with pytest.raises(ConfigError, match="step Gate: the process backend cannot run the condition Like"):
        checked({"Name": "Gate", "Type": "Condition", "Arguments": arguments})


def test_two_steps_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="step Make occurs twice"):
        checked(processing("Make", ["python"]), processing("Make", ["python"]))


def test_another_version_of_definitions_is_refused() -> None:
    with pytest.raises(ConfigError, match="definition version '2030-01-01'"):
        check({**definition(), "Version": "2030-01-01"}, Scope({}, {}))
