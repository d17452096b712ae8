"""The end of a run on AWS: the package's card and the candidate's test image."""

import json
from pathlib import Path
from typing import Any

from mammopipe.inference.client.errors import EndpointUnreachableError
from mammopipe.pipelines.account.finish import finish
from mammopipe.pipelines.backends.sessions import LocalServices
from tests.pipelines.conftest import BUCKET

RESULTS = f"s3://{BUCKET}/executions/abc"
PACKAGE = "arn:aws:sagemaker:us-east-1:123456789012:model-package/mammopipe/3"
EXECUTION = {
    "results": RESULTS,
    "region": "us-east-1",
    "model_card": True,
    "parameters": {"InputDataUri": f"s3://{BUCKET}/raw"},
    "steps": [
        {"name": "Register", "arn": PACKAGE},
        {"name": "Endpoint", "arn": "arn:aws:sagemaker:us-east-1:123456789012:endpoint/mammopipe-candidate"},
    ],
}


class Packages:
    """Replaces the boto3 client of SageMaker."""

    def __init__(self) -> None:
        self.cards: list[dict[str, Any]] = []

    def update_model_package(self, **given: Any) -> None:
        self.cards.append(given)


def put(services: LocalServices, folder: Path, uri: str, text: str) -> None:
    (folder / "put").write_text(text)
    services.storage.put(folder / "put", uri)


class Client:
    """Replaces the endpoint's client; it cannot reach the endpoint."""

    def __init__(self, name: str, *, region: str) -> None:
        self.name = name

    def predict(self, path: Path, **given: Any) -> Any:
        raise EndpointUnreachableError(f"{self.name}: no connection")


def run(
    services: LocalServices, folder: Path, execution: dict[str, Any], client: Any = Client
) -> tuple[Any, list[str]]:
    packages, said = Packages(), []
    finish(folder, execution, packages, services.storage, said.append, client=client)
    return packages.cards, said


def test_the_package_gets_the_card_that_evaluate_wrote(services: LocalServices, tmp_path: Path) -> None:
    put(services, tmp_path, f"{RESULTS}/evaluation/registration.json", json.dumps({"model_card": '{"a": 1}'}))
    cards, said = run(services, tmp_path, EXECUTION)
    card = {"ModelCardContent": '{"a": 1}', "ModelCardStatus": "Draft"}
    assert cards == [{"ModelPackageArn": PACKAGE, "ModelCard": card}]
    assert said[0] == f"Package {PACKAGE} has the model card, as a draft"
    assert "got no test image: the step cache replaced Prepare" in said[1]


def test_without_the_setting_there_is_no_card(services: LocalServices, tmp_path: Path) -> None:
    assert run(services, tmp_path, {**EXECUTION, "model_card": False})[0] == []


def test_what_fails_is_said_and_does_not_end_the_command(services: LocalServices, tmp_path: Path) -> None:
    manifest = "image_id,path\n"  # not a manifest of this project
    put(services, tmp_path, f"{RESULTS}/prepared/manifest.csv", manifest)
    cards, said = run(services, tmp_path, EXECUTION)
    assert cards == [] and "has no model card" in said[0]
    assert said[1].startswith("Endpoint mammopipe-candidate did not answer a test image; do not approve its package")
