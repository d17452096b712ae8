"""Fixtures of the pipeline's tests: tiny definitions whose jobs are Python scripts, and the services that run them."""

import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from mammopipe.pipelines.backends.expressions import Scope
from mammopipe.pipelines.backends.jobs import JobContext
from mammopipe.pipelines.backends.process import Interpreter
from mammopipe.pipelines.backends.sessions import LocalServices, local_services, reset_emulator
from mammopipe.pipelines.backends.step_status import Status
from mammopipe.pipelines.config.pipeline import PipelineConfig
from mammopipe.pipelines.data.step_cache import StepCache
from mammopipe.pipelines.graph.parameters import resolve_parameters

from .compiled import CONFIGURATIONS, Compiled

ROLE = "arn:aws:iam::000000000000:role/tests"
BUCKET = "mammopipe"
OUT = f"s3://{BUCKET}/out"

Step = dict[str, Any]


@pytest.fixture(autouse=True)
def no_outside_s3(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def no_network() -> Iterator[None]:
    def refuse(*arguments: object) -> None:
        raise AssertionError(f"a connection was tried: {arguments[1:]}")

    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        # The user's own configuration of AWS must not matter.
        patch.setenv("HOME", "/nonexistent")
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        yield


@pytest.fixture(scope="module")
def definitions(no_network: None) -> dict[str, Compiled]:
    return {name: Compiled(values) for name, values in CONFIGURATIONS.items()}


@pytest.fixture(params=CONFIGURATIONS)
def compiled(request: pytest.FixtureRequest, definitions: dict[str, Compiled]) -> Compiled:
    return definitions[request.param]


@pytest.fixture(scope="session")
def emulator() -> Iterator[LocalServices]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
        with local_services(PipelineConfig()) as running:
            yield running


@pytest.fixture
def services(emulator: LocalServices) -> LocalServices:
    reset_emulator(emulator.sagemaker.meta.endpoint_url)
    emulator.storage.ensure_bucket(BUCKET)
    return emulator


@pytest.fixture
def scripts(tmp_path: Path) -> "Scripts":
    return Scripts(tmp_path / "scripts")


class Scripts:
    """Writes job scripts; each can use `paths` (its ContainerPaths) and `arguments`."""

    HEAD = (
        "import json, os, sys, time\nfrom pathlib import Path\n"
        "from mammopipe.processing.container.paths import ContainerPaths\n"
        "paths, arguments = ContainerPaths.from_environment(), sys.argv[1:]\n"
    )

    def __init__(self, folder: Path):
        self.folder = folder

    def __call__(self, name: str, body: str) -> list[str]:
        self.folder.mkdir(exist_ok=True)
        path = self.folder / f"{name}.py"
        path.write_text(self.HEAD + body)
        return ["python", str(path)]


def processing(
    name: str,
    entrypoint: Sequence[str],
    *,
    arguments: Sequence[Any] = (),
    inputs: Mapping[str, Any] | None = None,
    outputs: Sequence[str] = (),
    instances: Any = 1,
    sharded: Sequence[str] = (),
    **members: Any,
) -> Step:
    return {
        "Name": name,
        "Type": "Processing",
        "Arguments": {
            "ProcessingResources": {
                "ClusterConfig": {"InstanceType": "ml.m5.large", "InstanceCount": instances, "VolumeSizeInGB": 1}
            },
            "AppSpecification": {
                "ImageUri": "image",
                "ContainerEntrypoint": list(entrypoint),
                **({"ContainerArguments": list(arguments)} if arguments else {}),
            },
            "RoleArn": ROLE,
            "ProcessingInputs": [
                {
                    "InputName": key,
                    "S3Input": {
                        "S3Uri": uri,
                        "LocalPath": f"/opt/ml/processing/input/{key}",
                        "S3DataType": "S3Prefix",
                        "S3InputMode": "File",
                        "S3DataDistributionType": "ShardedByS3Key" if key in sharded else "FullyReplicated",
                    },
                }
                for key, uri in (inputs or {}).items()
            ],
            "ProcessingOutputConfig": {
                "Outputs": [
                    {
                        "OutputName": key,
                        "S3Output": {
                            "S3Uri": f"{OUT}/{name}/{key}",
                            "LocalPath": f"/opt/ml/processing/output/{key}",
                            "S3UploadMode": "EndOfJob",
                        },
                    }
                    for key in outputs
                ]
            },
        },
        **members,
    }


def training(
    name: str,
    entrypoint: Sequence[str],
    *,
    inputs: Mapping[str, Any] | None = None,
    checkpoints: str | None = None,
    hyperparameters: Mapping[str, Any] | None = None,
    **members: Any,
) -> Step:
    return {
        "Name": name,
        "Type": "Training",
        "Arguments": {
            "AlgorithmSpecification": {
                "TrainingImage": "image",
                "TrainingInputMode": "File",
                "ContainerEntrypoint": list(entrypoint),
            },
            "RoleArn": ROLE,
            "HyperParameters": dict(hyperparameters or {}),
            "OutputDataConfig": {"S3OutputPath": f"{OUT}/models"},
            "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
            "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
            **(
                {
                    "InputDataConfig": [
                        {
                            "ChannelName": key,
                            "InputMode": "File",
                            "DataSource": {
                                "S3DataSource": {
                                    "S3DataType": "S3Prefix",
                                    "S3Uri": uri,
                                    "S3DataDistributionType": "FullyReplicated",
                                }
                            },
                        }
                        for key, uri in inputs.items()
                    ]
                }
                if inputs
                else {}
            ),
            **({"CheckpointConfig": {"S3Uri": checkpoints, "LocalPath": "/opt/ml/checkpoints"}} if checkpoints else {}),
        },
        **members,
    }


def output(step: str, name: str) -> dict[str, str]:
    return {"Get": f"Steps.{step}.ProcessingOutputConfig.Outputs['{name}'].S3Output.S3Uri"}


def definition(*steps: Step, parameters: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    return {"Version": "2020-12-01", "Metadata": {}, "Parameters": list(parameters), "Steps": list(steps)}


class Runner:
    """Runs definitions on the emulator, in a folder of the test."""

    def __init__(self, services: LocalServices, folder: Path):
        self.services, self.folder = services, folder
        self.status: Status | None = None
        self.cache: StepCache | None = None
        self.snapshots: list[list[dict[str, Any]]] = []

    def interpreter(self, compiled: Mapping[str, Any], *, cores: int = 2, **parameters: Any) -> Interpreter:
        compiled = json.loads(json.dumps(compiled))
        execution = {"PipelineExecutionId": "run-1", "PipelineName": "test"}
        folder = self.folder
        return Interpreter(
            definition=compiled,
            scope=Scope(resolve_parameters(compiled, parameters), execution),
            context=JobContext(
                self.services.storage, folder / "work", folder / "logs", folder / "checkpoints", cache=self.cache
            ),
            sagemaker=self.services.sagemaker,
            serving=folder / "serving",
            environment=self.services.environment,
            cores=cores,
            changed=lambda records: self.snapshots.append([record.as_dict() for record in records]),
        )

    def __call__(self, *steps: Step, parameters: Sequence[Mapping[str, Any]] = (), **options: Any) -> Interpreter:
        interpreter = self.interpreter(definition(*steps, parameters=parameters), **options)
        self.status = interpreter.run()
        return interpreter

    def text(self, uri: str) -> str:
        return self.services.storage.read(uri).decode()


@pytest.fixture
def run(services: LocalServices, tmp_path: Path) -> Runner:
    return Runner(services, tmp_path)
